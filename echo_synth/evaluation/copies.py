"""Is an image a copy of a training image? Nearest neighbours in pixels and in features, with calibrated limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_synth.evaluation.statistics import number
from echo_synth.metrics import bootstrap, privacy
from echo_synth.metrics.privacy import CopySearch, MovedNeighbours, Neighbours
from echo_synth.progress import track

_BATCH = 64
_REPEATS = 1000


@dataclass(frozen=True)
class Spaces:
    """Nearest training image of each image: in pixels, and in features where there is a classifier."""

    pixels: MovedNeighbours
    features: Neighbours | None

    def flagged(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """Images (N,) nearer to a training image than either limit."""
        near = self.pixels.similarity > limits["pixels"]
        return near | (self.features.similarity > limits["features"]) if self.features is not None else near

    def by_name(self) -> dict[str, Neighbours]:
        """The spaces that there are, as `limits_of` names them."""
        return {"pixels": self.pixels} | ({"features": self.features} if self.features is not None else {})


class TrainingImages:
    """The images that nothing drawn should be a copy of, prepared for any number of searches.

    Args:
        pixels: (M, H, W) uint8, 0 outside the sector.
        features: (M, D) of the same, or None where there is no classifier.
    """

    def __init__(self, pixels: NDArray[np.uint8], features: NDArray[np.float64] | None) -> None:
        self._search, self._features = CopySearch(pixels), features

    def nearest(self, pixels: NDArray[np.uint8], features: NDArray[np.float64] | None) -> Spaces:
        """Neighbours of images (N, H, W) with their features (N, D); those count where both sides have them."""
        chunks = [pixels[i : i + _BATCH] for i in range(0, len(pixels), _BATCH)]
        searches = map(self._search.nearest, chunks)
        parts = list(track(searches, len(chunks), "neighbours", "batches") if len(chunks) > 1 else searches)
        joined = MovedNeighbours(
            index=np.concatenate([p.index for p in parts]),
            similarity=np.concatenate([p.similarity for p in parts]),
            mirrored=np.concatenate([p.mirrored for p in parts]),
            rotation=np.concatenate([p.rotation for p in parts]),
            scale=np.concatenate([p.scale for p in parts]),
        )
        if features is None or self._features is None:
            return Spaces(joined, None)
        return Spaces(joined, privacy.embedding_neighbours(features, self._features))


def limits_of(unseen: Spaces, rate: float) -> dict[str, float]:
    """Thresholds that flag a share `rate` of unseen real images, half of it in each space that is looked at."""
    spaces = unseen.by_name()
    return {name: privacy.threshold(near.similarity, rate / len(spaces)) for name, near in spaces.items()}


def limit_intervals(
    unseen: Spaces, patients: NDArray[np.str_], rate: float, seed: int
) -> dict[str, list[float | None]]:
    """95 % intervals of `limits_of` over patients, whose images (N,) are not independent; None for "no limit at all"."""
    spaces = unseen.by_name()
    intervals = {
        name: privacy.threshold_interval(near.similarity, patients, rate / len(spaces), _REPEATS, seed)
        for name, near in spaces.items()
    }
    return {name: [number(low), number(high)] for name, (low, high) in intervals.items()}


def flagged_share(flagged: NDArray[np.bool_], patients: NDArray[np.str_], seed: int) -> dict[str, Any]:
    """Count and share of flagged images (N,) with a 95 % interval over patients (N,).

    Where none or all are flagged no resampling differs: then it is Clopper and Pearson's for that many patients.
    """
    several = len(set(patients.tolist()))
    if flagged.any() and not flagged.all() and several > 1:
        interval = bootstrap.patient_interval(flagged.astype(np.float64), patients, _REPEATS, seed)
    else:
        interval = privacy.share_interval(several if flagged.all() else 0, several)
    return {
        "flagged": int(flagged.sum()),
        "images": len(flagged),
        "patients": several,
        "share": float(flagged.mean()),
        "ci95": [number(end) for end in interval],
    }
