"""Pure functions on arrays: overlap, surface distances, classification, bootstrap."""

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
