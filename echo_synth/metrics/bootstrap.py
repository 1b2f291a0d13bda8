"""Bootstrap statistics: the paper's random subsets, and intervals that respect patients.

Images of one patient are not independent: an interval that resamples images is too narrow.
Patients are resampled, each with all its images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _patient_sums(
    values: NDArray[np.float64], patients: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of the finite values of each patient."""
    _, position = np.unique(patients, return_inverse=True)
    finite = np.isfinite(values)
    sums = np.bincount(position, np.where(finite, values, 0))
    counts = np.bincount(position, finite.astype(float))
    return sums.astype(np.float64), counts.astype(np.float64)


def patient_means(
    values: NDArray[np.float64], patients: NDArray[np.str_], repeats: int, seed: int
) -> NDArray[np.float64]:
    """Mean over images in `repeats` resamples of patients with replacement, (repeats,); NaN values are left out.

    Args:
        values: (N,), one number an image.
        patients: (N,), whose image it is.
    """
    sums, counts = _patient_sums(values, patients)
    picks = np.random.default_rng(seed).integers(0, len(sums), (repeats, len(sums)))
    total, number = sums[picks].sum(1), counts[picks].sum(1)
    return np.divide(total, number, out=np.full(repeats, np.nan), where=number > 0)


def patient_interval(
    values: NDArray[np.float64], patients: NDArray[np.str_], repeats: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over images, patients resampled. (NaN, NaN) without a finite value."""
    means = patient_means(values, patients, repeats, seed)
    if np.isnan(means).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(means, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def subset_bootstrap(
    values: NDArray[np.float64], repeats: int = 1000, seed: int = 0, share: float = 0.8
) -> tuple[float, float]:
    """The paper's form: mean and standard deviation, over `repeats`, of the mean of a random `share` of the images.

    Subsets are drawn without replacement; NaN values are left out first.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    size = max(1, round(share * len(finite)))
    order = np.random.default_rng(seed).random((repeats, len(finite))).argpartition(size - 1, axis=1)[:, :size]
    means = finite[order].mean(1)
    return float(means.mean()), float(means.std())
