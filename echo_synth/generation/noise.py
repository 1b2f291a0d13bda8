"""Maps filled with noise textures: the floor that a generative model has to beat.

Nothing here knows what an echocardiogram looks like. Every tissue of every image gets a random
grey level and its own grain, so that only the outlines of the map can be learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_LEVELS = (30.0, 180.0)  # mean grey level of a tissue
_GRAIN_PX = (0.7, 3.0)  # sigma of the texture


class NoiseTextures:
    """An `ImageSource`: image i depends on (seed, i) and its map only."""

    device, precision, evaluations = "cpu", "", 0

    def draw(
        self,
        tissues: NDArray[np.uint8],
        frames: NDArray[np.uint8],
        seed: int,
        indices: Sequence[int],
        on_evaluation: Callable[[], None],
    ) -> NDArray[np.uint8]:
        """Images (N, 256, 256) uint8, 0 outside the sector, at least 1 inside; see `run.ImageSource`."""
        return np.stack([_fill(t, np.random.default_rng([seed, i])) for t, i in zip(tissues, indices, strict=True)])


def _fill(tissues: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    image = np.zeros(tissues.shape)
    for tissue in range(1, int(tissues.max()) + 1):
        level, grain = rng.uniform(*_LEVELS), rng.uniform(*_GRAIN_PX)
        field = [ndimage.gaussian_filter(rng.standard_normal(tissues.shape), grain) for _ in range(2)]
        speckle = np.hypot(*field)
        image = np.where(tissues == tissue, speckle / speckle.mean() * level, image)
    return np.where(tissues > 0, image.clip(1, 255), 0).round().astype(np.uint8)
