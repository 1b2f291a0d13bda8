"""View classification from probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats


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
    """Expected calibration error: |predicted − observed| averaged over bins by their number of images."""
    claimed, observed, counts = calibration(truth, probability, bins)
    return float((np.nan_to_num(np.abs(claimed - observed)) * counts).sum() / counts.sum())


_CLIP = 1e-6  # a probability of 0 or 1 has no logit
_NEWTON_STEPS = 25
_SEPARATED = 1e3  # no slope of finite data is so large: the classes are apart


def _logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(probability, np.float64), _CLIP, 1 - _CLIP)
    return np.log(clipped / (1 - clipped))


def _logistic_fit(
    design: NDArray[np.float64], truth: NDArray[np.integer], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients (K,) of a logistic regression by Newton's method, from a design (N, K); NaN where there is none."""
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        expected = special.expit(design @ weights + offset)
        curvature = design.T @ (design * (expected * (1 - expected))[:, None])
        if np.abs(weights).max() > _SEPARATED or np.linalg.cond(curvature) > 1e12:
            return np.full_like(weights, np.nan)
        step = np.linalg.solve(curvature, design.T @ (truth - expected))
        weights += step
        if np.abs(step).max() < 1e-8:
            return weights
    return np.full_like(weights, np.nan)


def calibration_slope(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> float:
    """Slope of a logistic regression of the truth on the predicted logit (Cox 1958): 1 is ideal, less is overconfident.

    NaN where it does not exist: only one class, or classes that the probability separates without error.
    """
    if len(np.unique(truth)) < 2:
        return float("nan")
    logit = _logit(probability)
    design = np.stack([np.ones_like(logit), logit], 1)
    return float(_logistic_fit(design, truth, np.zeros_like(logit))[1])


def calibration_intercept(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> float:
    """Calibration in the large: what must be added to the predicted logit for the right share of class 1; 0 is ideal."""
    if len(np.unique(truth)) < 2:
        return float("nan")
    logit = _logit(probability)
    return float(_logistic_fit(np.ones((len(logit), 1)), truth, logit)[0])


def confusion(truth: NDArray[np.integer], probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts (2, 2): row the true class, column the predicted one."""
    predicted = (probability >= 0.5).astype(int)
    return np.bincount(2 * truth + predicted, minlength=4).reshape(2, 2)
