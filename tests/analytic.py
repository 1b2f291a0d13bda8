"""Things whose answers are known: an exact denoiser, discs and squares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


def mixture_denoiser(mean: float = 0.6, std: float = 0.25) -> Callable[[Tensor, Tensor], Tensor]:
    """Posterior mean of a per-pixel mixture of two Gaussians at ±mean, equal weights."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=torch.float64) ** 2
        v = std**2 + s2
        w = torch.sigmoid(2 * mean * x / v)
        return (std**2 * x + s2 * mean * (2 * w - 1)) / v

    return denoise


def disc(size: int, centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """Pixels (size, size) whose centres lie within `radius` of `centre`."""
    rows, columns = np.indices((size, size))
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def square(size: int, top: int, left: int, side: int) -> NDArray[np.bool_]:
    """A filled square in a (size, size) image."""
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def count_holes_and_components(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Holes and 4-connected components of `mask` (H, W) bool.

    A hole is an 8-connected background component that does not touch the image border.
    """
    padded = np.pad(~mask, 1, constant_values=True)
    _, background = ndimage.label(padded, structure=np.ones((3, 3)))
    _, components = ndimage.label(mask)
    return background - 1, components
