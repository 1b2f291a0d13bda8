"""A 2-D image with the size of its pixels, and the checks of every image that is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echo_synth.errors import DataError

MOST_PIXELS = 1 << 25  # 5792 x 5792; an echo image has a hundredth of that
SPACING_MM = (1e-3, 100.0)


@dataclass(frozen=True)
class Image2D:
    """One 2-D image or mask in upright array order.

    Attributes:
        pixels: (rows = depth, columns = lateral), the file's own dtype: real, finite.
        spacing: mm per pixel, (row, column).
        direction: (3, 2) unit vectors along which columns and rows run, in ITK's world (left,
            posterior, superior); None where the file does not say.
    """

    pixels: NDArray[np.generic]
    spacing: tuple[float, float]
    direction: NDArray[np.float64] | None = None


def check_pixels(path: Path, pixels: NDArray[np.generic]) -> None:
    """Raise DataError when a pixel is no finite number."""
    if pixels.dtype.kind == "f":
        bad = int(np.count_nonzero(~np.isfinite(pixels)))
        if bad:
            raise DataError(f"{path}: {bad} pixels are NaN or infinite, expected numbers")


def check_spacing(path: Path, spacing: tuple[float, float]) -> None:
    """Raise DataError when a pixel of that size, mm, cannot be."""
    low, high = SPACING_MM
    if not all(low <= s <= high for s in spacing):
        raise DataError(f"{path}: spacing {spacing[0]:g} x {spacing[1]:g} mm, expected {low:g} to {high:g} mm a pixel")


def check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Raise DataError unless `shape`, of a header, is that of one 2-D image: other axes have length 1."""
    if len(shape) < 2 or min(shape) < 1 or any(n != 1 for n in shape[2:]):
        raise DataError(f"{path}: has shape {tuple(shape)}, expected a 2-D image")
    if shape[0] * shape[1] > MOST_PIXELS:
        raise DataError(f"{path}: its header promises {shape[0]} x {shape[1]} pixels, expected at most {MOST_PIXELS}")
