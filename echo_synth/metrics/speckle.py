"""Texture of ultrasound: amplitude distributions, strength and reach of the grain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BLUR_MM = 3.0  # what is wider than this is anatomy, not grain


@dataclass(frozen=True)
class Speckle:
    """Texture of one image.

    Attributes:
        rayleigh_scale: maximum likelihood, of intensities in [0, 1].
        nakagami_m: shape by moments of the intensity: 1 is Rayleigh (fully developed speckle), below
            it heavier tails.
        nakagami_omega: mean square.
        grain: standard deviation of the image minus its blurred self.
        axial_mm, lateral_mm: lag at which the grain's autocorrelation falls to one half, along rows
            (depth) and columns.
    """

    rayleigh_scale: float
    nakagami_m: float
    nakagami_omega: float
    grain: float
    axial_mm: float
    lateral_mm: float


def speckle(image: NDArray[np.uint8], sector: NDArray[np.bool_], spacing: tuple[float, float]) -> Speckle:
    """Texture inside `sector` (H, W) of `image` (H, W) uint8; spacing in mm, (row, column)."""
    unit = image.astype(np.float64) / 255
    inside = unit[sector]
    power = inside**2
    omega, spread = float(power.mean()), float(power.var())
    residual = unit - _masked_blur(unit, sector, (_BLUR_MM / spacing[0], _BLUR_MM / spacing[1]))
    residual = np.where(sector, residual - residual[sector].mean(), 0)
    correlation = masked_autocorrelation(residual, sector)
    return Speckle(
        rayleigh_scale=float(np.sqrt(omega / 2)),
        nakagami_m=omega**2 / spread if spread > 0 else float("inf"),
        nakagami_omega=omega,
        grain=float(residual[sector].std()),
        axial_mm=half_lag(correlation[:, 0]) * spacing[0],
        lateral_mm=half_lag(correlation[0]) * spacing[1],
    )


def _masked_blur(
    image: NDArray[np.float64], mask: NDArray[np.bool_], sigma: tuple[float, float]
) -> NDArray[np.float64]:
    weight = ndimage.gaussian_filter(mask.astype(float), sigma)
    blurred: NDArray[np.float64] = ndimage.gaussian_filter(np.where(mask, image, 0), sigma) / np.maximum(weight, 1e-9)
    return blurred


def masked_autocorrelation(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Autocorrelation of `values` (H, W), zero outside `mask`, over pairs inside it; (H, W) of non-negative lags, 1 at [0, 0]."""
    shape = (2 * values.shape[0], 2 * values.shape[1])
    spectrum, window = np.fft.rfft2(values, shape), np.fft.rfft2(mask.astype(float), shape)
    products = np.fft.irfft2(np.abs(spectrum) ** 2, shape)[: values.shape[0], : values.shape[1]]
    pairs = np.fft.irfft2(np.abs(window) ** 2, shape)[: values.shape[0], : values.shape[1]]
    mean = products / np.maximum(pairs, 1)
    return np.asarray(mean / mean[0, 0] if mean[0, 0] > 0 else np.full_like(mean, np.nan))


def half_lag(correlation: NDArray[np.float64]) -> float:
    """First lag, in pixels and fractions, at which a correlation that begins with 1 falls to ½; NaN if it never does."""
    below = np.flatnonzero(correlation <= 0.5)
    if not len(below) or below[0] == 0:
        return float("nan")
    i = int(below[0])
    high, low = correlation[i - 1], correlation[i]
    return i - 1 + float((high - 0.5) / (high - low))
