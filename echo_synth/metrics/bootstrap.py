"""Bootstrap statistics: the paper's random subsets, and intervals and tests that respect patients.

Images of one patient are not independent: an interval that resamples images is too narrow.
Patients are resampled, each with all its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Method = Literal["bca", "percentile"]
_FLIPS = 10_000


def _patient_sums(
    values: NDArray[np.float64], patients: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of the finite values of each patient."""
    _, position = np.unique(patients, return_inverse=True)
    finite = np.isfinite(values)
    sums = np.bincount(position, np.where(finite, values, 0))
    counts = np.bincount(position, finite.astype(float))
    return sums.astype(np.float64), counts.astype(np.float64)


def _ratio(total: NDArray[np.float64], number: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


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
    return _ratio(sums[picks].sum(1), counts[picks].sum(1))


def patient_interval(
    values: NDArray[np.float64],
    patients: NDArray[np.str_],
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Method = "bca",
) -> tuple[float, float]:
    """Interval of the mean over images, patients resampled. (NaN, NaN) without a finite value.

    `bca` corrects the percentiles for bias and for skewness (Efron 1987), which distances have.
    """
    sums, counts = _patient_sums(values, patients)
    replicates = patient_means(values, patients, repeats, seed)
    left_out = _ratio(sums.sum() - sums, counts.sum() - counts)
    estimate = sums.sum() / counts.sum() if counts.sum() else float("nan")
    return interval(replicates, float(estimate), left_out, level, method)


def interval(
    replicates: NDArray[np.float64],
    estimate: float,
    left_out: NDArray[np.float64],
    level: float = 0.95,
    method: Method = "bca",
) -> tuple[float, float]:
    """Interval from bootstrap replicates (R,) of a statistic.

    Args:
        estimate: the statistic of the data.
        left_out: (P,) the statistic with each patient left out, for the acceleration of BCa.

    Returns:
        Percentiles where BCa is not defined: all replicates on one side of the estimate, or one patient.
    """
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return float("nan"), float("nan")
    ends = np.array([0.5 * (1 - level), 0.5 * (1 + level)])
    share = ((known < estimate).sum() + 0.5 * (known == estimate).sum()) / len(known)
    left_out = left_out[np.isfinite(left_out)]
    if method == "bca" and 0 < share < 1 and len(left_out) > 1:
        bias = stats.norm.ppf(share)
        away = left_out.mean() - left_out
        scale = (away**2).sum() ** 1.5
        acceleration = (away**3).sum() / (6 * scale) if scale > 0 else 0.0
        shifted = bias + stats.norm.ppf(ends)
        ends = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(known, ends)
    return float(low), float(high)


def patient_statistic(
    statistic: Callable[[NDArray[np.intp]], float],
    patients: NDArray[np.str_],
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Method = "bca",
) -> tuple[float, tuple[float, float]]:
    """Standard deviation over resamples of patients (a standard error), and interval, of any statistic of images.

    Args:
        statistic: of image positions (n,), which repeat as patients do; may be NaN.
    """
    names, position = np.unique(patients, return_inverse=True)
    members = [np.flatnonzero(position == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(0, len(names), len(names)) for _ in range(repeats))
    replicates = np.array([statistic(np.concatenate([members[i] for i in chosen])) for chosen in resamples])
    left_out = np.array([statistic(np.flatnonzero(position != i)) for i in range(len(names))] if len(names) > 1 else [])
    ends = interval(replicates, statistic(np.arange(len(patients))), left_out, level, method)
    known = replicates[np.isfinite(replicates)]
    return float(known.std()) if len(known) else float("nan"), ends


def subset_statistic(
    statistic: Callable[[NDArray[np.intp]], float], count: int, repeats: int = 1000, seed: int = 0, share: float = 0.8
) -> float:
    """Standard deviation of a statistic over random subsets, as `subset_bootstrap` has it for a mean."""
    rng, size = np.random.default_rng(seed), max(1, round(share * count))
    values = np.array([statistic(rng.permutation(count)[:size]) for _ in range(repeats)])
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) else float("nan")


def sign_flip_test(
    values: NDArray[np.float64], patients: NDArray[np.str_], seed: int = 0, flips: int = _FLIPS
) -> float:
    """Two-sided p-value of a mean of zero for paired differences, by flipping the signs of whole patients.

    Valid if, without an effect, a patient's differences are as likely with the opposite sign. If there are no more
    than `flips` sign combinations (13 patients at 10 000), all are tried; else the smallest p is 1 / (flips + 1).

    Args:
        values: (N,) differences, one per image; NaN values are left out.
        patients: (N,), the patient of each image.
    """
    sums, _ = _patient_sums(values, patients)
    if len(sums) == 1:  # a sign and its opposite: as extreme, both
        return 1.0
    result = stats.permutation_test(
        (sums,),
        _distance_from_zero,
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _distance_from_zero(sums: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.abs(sums.sum(axis))
    return distance


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's adjusted p-values, (N,), in the given order: comparing them with a level keeps the family-wise error at that level."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


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


def wilson_interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share: it has a width even if none or all succeed. (NaN, NaN) without trials."""
    if not count:
        return float("nan"), float("nan")
    ends = stats.binomtest(successes, count).proportion_ci(level, "wilson")
    return float(ends.low), float(ends.high)
