"""Agreement of two ways to measure the same quantity: limits (Bland & Altman 1986), ICC, weighted kappa."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Pearson's r, ICC, mean difference (bias), mean absolute difference, limits of agreement, and how many pairs.

    The ICC is that of absolute agreement of single measurements, ICC(A,1) of McGraw & Wong (1996). The limits are bias ± 1.96 standard deviations of the differences: about 95 % of them lie
    between. NaN where there are too few pairs.
    """

    r: float
    icc: float
    bias: float
    mae: float
    loa: tuple[float, float]
    n: int


def agreement(measured: NDArray[np.floating], reference: NDArray[np.floating]) -> Agreement:
    """Agreement of `measured` with `reference`, both (N,); pairs with a NaN are left out. Differences: measured − reference."""
    known = np.isfinite(measured) & np.isfinite(reference)
    x, y = np.asarray(measured[known], np.float64), np.asarray(reference[known], np.float64)
    nan = float("nan")
    if len(x) == 0:
        return Agreement(nan, nan, nan, nan, (nan, nan), 0)
    d = x - y
    bias, spread = float(d.mean()), float(d.std(ddof=1)) if len(d) > 1 else nan
    varied = len(x) > 1 and x.std() > 0 and y.std() > 0
    r = float(np.corrcoef(x, y)[0, 1]) if varied else nan
    limits = (bias - 1.96 * spread, bias + 1.96 * spread)
    return Agreement(r, intraclass_correlation(x, y), bias, float(np.abs(d).mean()), limits, len(d))


def intraclass_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """ICC(A,1) of two measurements (N,) of the same N subjects (McGraw & Wong 1996); NaN for fewer than two, or no spread."""
    count = len(x)
    if count < 2:
        return float("nan")
    both = np.stack([x, y], 1)
    subjects, methods, grand = both.mean(1), both.mean(0), both.mean()
    between = 2 * ((subjects - grand) ** 2).sum() / (count - 1)
    between_methods = count * ((methods - grand) ** 2).sum()
    rest = ((both - subjects[:, None] - methods + grand) ** 2).sum() / (count - 1)
    scale = between + rest + 2 / count * (between_methods - rest)
    return float((between - rest) / scale) if scale > 0 else float("nan")


def weighted_kappa(table: NDArray[np.integer]) -> float:
    """Cohen's kappa with linear weights (1968) of counts (K, K) of two raters; NaN where chance alone agrees fully."""
    counts = np.asarray(table, np.float64)
    total = counts.sum()
    apart = np.abs(np.subtract.outer(np.arange(len(counts)), np.arange(len(counts))))
    by_chance = np.outer(counts.sum(1), counts.sum(0)) / total if total else counts
    expected = (apart * by_chance).sum()
    return float(1 - (apart * counts).sum() / expected) if expected > 0 else float("nan")
