"""Pure functions on arrays: overlap, surface distances, classification, bootstrap.

Names are looked up when they are asked for: the bootstrap loads scipy.stats, which takes longer
than most commands that need a connected component.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echo_synth.metrics.bootstrap import patient_interval, subset_bootstrap
    from echo_synth.metrics.components import largest_component
    from echo_synth.metrics.overlap import dice, structure_mask
    from echo_synth.metrics.surface import SurfaceDistances, surface_distances

__all__ = [
    "SurfaceDistances",
    "dice",
    "largest_component",
    "patient_interval",
    "structure_mask",
    "subset_bootstrap",
    "surface_distances",
]
_FILES = {
    "SurfaceDistances": "surface",
    "dice": "overlap",
    "largest_component": "components",
    "patient_interval": "bootstrap",
    "structure_mask": "overlap",
    "subset_bootstrap": "bootstrap",
    "surface_distances": "surface",
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
