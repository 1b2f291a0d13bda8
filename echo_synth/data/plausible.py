"""Whether a deformation keeps a heart's shape: the bounds of a recipe, checked in all masks that share the deformation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.deformation import Transformation, move, stretch
from echo_synth.data.heart_shape import HeartShape, heart_shape
from echo_synth.data.tissues import tissue_map, visible
from echo_synth.specs import AnatomyBounds

_CAVITY = 1


@dataclass(frozen=True)
class Plausible:
    """Says of a transformation whether every one of `masks`, (256, 256) as `deformation.apply` takes them, stays within `bounds`.

    Only what lies inside the sector is measured.
    """

    masks: Sequence[NDArray[np.uint8]]
    bounds: AnatomyBounds
    _sectors: list[NDArray[np.bool_]] = field(init=False, repr=False)
    _before: list[HeartShape] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sectors", [visible(m) > 0 for m in self.masks])
        object.__setattr__(self, "_before", [heart_shape(visible(m)) for m in self.masks])

    def __call__(self, transformation: Transformation) -> bool:
        """Whether the bounds hold; with `both_ways` also for the same draw with 1 / scale.

        A heart that fills its sector cannot grow: where only draws that enlarge it are refused, the others shrink
        hearts on average.
        """
        if not self._holds(transformation):
            return False
        return not self.bounds.both_ways or self._holds(replace(transformation, scale=1 / transformation.scale))

    def _holds(self, transformation: Transformation) -> bool:
        """The cheap questions first: a draw is mostly refused for its stretch."""
        moved = [move(mask, transformation) for mask in self.masks]
        heart = np.any([m > 0 for m in moved], axis=0)
        if stretch(transformation, heart) > self.bounds.stretch:
            return False
        if any(self._leaves(m, sector) for m, sector in zip(moved, self._sectors, strict=True)):
            return False
        after = (heart_shape(tissue_map(m, sector)) for m, sector in zip(moved, self._sectors, strict=True))
        return all(self._keeps(old, new) for old, new in zip(self._before, after, strict=True))

    def _leaves(self, moved: NDArray[np.uint8], sector: NDArray[np.bool_]) -> bool:
        cavity = moved == _CAVITY
        return bool((cavity & ~sector).sum() > self.bounds.clipped * cavity.sum())

    def _keeps(self, old: HeartShape, new: HeartShape) -> bool:
        """What cannot be measured in either (NaN) breaks no bound."""
        bounds = self.bounds
        return not (
            new.components != old.components
            or new.solidity < bounds.solidity * old.solidity
            or new.wall < bounds.wall * old.wall
            or abs(new.valve_deg - old.valve_deg) > bounds.valve_deg
            or new.atrium < bounds.atrium * old.atrium
        )
