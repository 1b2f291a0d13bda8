"""Agreement of two ways to measure the same quantity (Bland & Altman 1986)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Pearson's r, mean difference (bias), mean absolute difference, limits of agreement, and how many pairs.

    The limits are bias ± 1.96 standard deviations of the differences: about 95 % of them lie
    between. NaN where there are too few pairs.
    """

    r: float
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
        return Agreement(nan, nan, nan, (nan, nan), 0)
    d = x - y
    bias, spread = float(d.mean()), float(d.std(ddof=1)) if len(d) > 1 else nan
    varied = len(x) > 1 and x.std() > 0 and y.std() > 0
    r = float(np.corrcoef(x, y)[0, 1]) if varied else nan
    return Agreement(r, bias, float(np.abs(d).mean()), (bias - 1.96 * spread, bias + 1.96 * spread), len(d))
