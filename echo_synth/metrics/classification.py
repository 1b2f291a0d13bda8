"""View classification from probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def accuracy(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> float:
    """Share of images whose class (0 or 1) is that of `probability` >= 0.5. Both (N,)."""
    return float(((probability >= 0.5).astype(int) == truth).mean())


def auroc(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> float:
    """Area under the ROC curve by ranks, ties counted half; NaN unless both classes occur."""
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(probability)
    return float((ranks[truth == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def f1(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> float:
    """Mean over both classes of the harmonic mean of precision and recall (macro F1)."""
    predicted = (probability >= 0.5).astype(int)
    scores = []
    for c in (0, 1):
        hit = int(((predicted == c) & (truth == c)).sum())
        total = int((predicted == c).sum()) + int((truth == c).sum())
        scores.append(2 * hit / total if total else float("nan"))
    return float(np.nanmean(scores))


def brier(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> float:
    """Mean squared error of the probability, 0 is perfect."""
    return float(((probability - truth) ** 2).mean())


def calibration(
    truth: NDArray[np.integer], probability: NDArray[np.floating], bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Reliability curve: mean probability, observed share of class 1, and number of images in each of `bins` equal bins.

    Empty bins have NaN in the first two.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, probability, bins), np.bincount(place, truth.astype(float), bins))
    claimed, observed = (np.divide(s, counts, out=np.full(bins, np.nan), where=counts > 0) for s in sums)
    return claimed, observed, counts


def calibration_error(truth: NDArray[np.integer], probability: NDArray[np.floating], bins: int = 10) -> float:
    """Expected calibration error: |claimed − observed| averaged over bins by their number of images."""
    claimed, observed, counts = calibration(truth, probability, bins)
    return float((np.nan_to_num(np.abs(claimed - observed)) * counts).sum() / counts.sum())


def confusion(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts (2, 2): row the true class, column the predicted one."""
    predicted = (probability >= 0.5).astype(int)
    return np.bincount(2 * truth + predicted, minlength=4).reshape(2, 2)
