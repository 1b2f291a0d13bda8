"""Is a synthetic image a copy of a training image? Nearest neighbours in two spaces, and calibrated thresholds.

Similarity is a correlation: 1 for the same picture, whatever its gain and brightness. In pixel
space it is the largest over small shifts and over mirroring, so that neither hides a copy.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_CHUNK = 64  # images whose correlations with all references are held at once


@dataclass(frozen=True)
class Neighbours:
    """Nearest of the references to each image: position (N,) and similarity (N,) in [−1, 1]."""

    index: NDArray[np.int64]
    similarity: NDArray[np.float64]


def pixel_neighbours(images: NDArray[np.floating], references: NDArray[np.floating], shift: int = 2) -> Neighbours:
    """Nearest in pixel space, over cyclic shifts of up to `shift` pixels and mirroring.

    Args:
        images: (N, H, W) grey levels, 0 outside the sector.
        references: (M, H, W), the same.
    """
    both = _standard(np.concatenate([references, references[:, :, ::-1]])).reshape(2 * len(references), -1).T
    lags = list(itertools.product(range(-shift, shift + 1), repeat=2))
    best, value = [], []
    for start in range(0, len(images), _CHUNK):
        some = _standard(images[start : start + _CHUNK])
        # A product for each of the few shifts is several times cheaper than whole correlation surfaces.
        scores = np.full((len(some), both.shape[1]), -np.inf)
        for lag in lags:
            np.maximum(scores, np.roll(some, lag, (1, 2)).reshape(len(some), -1) @ both, out=scores)
        best.append(scores.argmax(1) % len(references))
        value.append(scores.max(1))
    return Neighbours(np.concatenate(best), np.concatenate(value))


def _standard(images: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each image with in-sector mean 0, nothing outside, sum of squares 1: products are correlations.

    With the outside left in, all fans of one shape would look alike.
    """
    inside = images > 0
    count = np.maximum(inside.sum((1, 2), keepdims=True), 1)
    centred = np.where(inside, images - (images * inside).sum((1, 2), keepdims=True, dtype=np.float64) / count, 0)
    norm = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    return np.asarray(centred / np.maximum(norm, 1e-12), np.float64)


def embedding_neighbours(features: NDArray[np.floating], references: NDArray[np.floating]) -> Neighbours:
    """Nearest by the cosine of features (N, D) to features (M, D), both centred on the references' mean."""
    centre = references.mean(0)

    def unit(x: NDArray[np.floating]) -> NDArray[np.float64]:
        moved = np.asarray(x - centre, np.float64)
        return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12))

    cosines = unit(features) @ unit(references).T
    index = cosines.argmax(1)
    return Neighbours(index.astype(np.int64), cosines[np.arange(len(index)), index])


def threshold(similarity: NDArray[np.floating], rate: float) -> float:
    """Similarity that a share `rate` of unseen images, exchangeable with these (N,), exceeds at most (conformal).

    +inf when N is too small for that rate.
    """
    rank = math.ceil((len(similarity) + 1) * (1 - rate))
    return float(np.sort(similarity)[rank - 1]) if rank <= len(similarity) else float("inf")


def share_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share `count` / `total`."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return low, high
