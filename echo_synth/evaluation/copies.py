"""Is an image a copy of a training image? Nearest neighbours in pixels and in features, with calibrated limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from echo_synth.evaluation.image_sets import ImageSet
from echo_synth.metrics import privacy
from echo_synth.progress import track

_SMALL = 64  # of the grid on which copies are looked for
_BATCH = 32


@dataclass(frozen=True)
class Spaces:
    """Nearest training image of each image: in pixels, and in features where there is a classifier."""

    pixels: privacy.Neighbours
    features: privacy.Neighbours | None

    def flagged(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """Images (N,) nearer to a training image than either limit."""
        near = self.pixels.similarity > limits["pixels"]
        return near | (self.features.similarity > limits["features"]) if self.features is not None else near


def nearest_training(
    images: ImageSet, training: ImageSet, features: NDArray[np.float64] | None, known: NDArray[np.float64] | None
) -> Spaces:
    """Nearest training images of `images`; `features` (N, D) and `known` (M, D) of both."""
    small, references = _shrunk(images.pixels), _shrunk(training.pixels)
    chunks = [small[i : i + _BATCH] for i in range(0, len(small), _BATCH)]
    search = map(partial(privacy.pixel_neighbours, references=references), chunks)
    parts = list(track(search, len(chunks), "neighbours", "batches"))
    joined = privacy.Neighbours(np.concatenate([p.index for p in parts]), np.concatenate([p.similarity for p in parts]))
    embedded = None
    if features is not None and known is not None:
        embedded = privacy.embedding_neighbours(features, known)
    return Spaces(joined, embedded)


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = F.interpolate(torch.from_numpy(pixels)[:, None].float(), size=(_SMALL, _SMALL), mode="area")[:, 0]
    return small.double().numpy()


def limits_of(unseen: Spaces, rate: float) -> dict[str, float]:
    """Thresholds that flag a share `rate` of unseen real images, half of it in each space that is looked at."""
    share = rate / 2 if unseen.features is not None else rate
    limits = {"pixels": privacy.threshold(unseen.pixels.similarity, share)}
    if unseen.features is not None:
        limits["features"] = privacy.threshold(unseen.features.similarity, share)
    return limits


def privacy_summary(flagged: NDArray[np.bool_]) -> dict[str, Any]:
    """Count and share of flagged images with a Clopper-Pearson interval."""
    low, high = privacy.share_interval(int(flagged.sum()), len(flagged))
    return {"flagged": int(flagged.sum()), "images": len(flagged), "share": float(flagged.mean()), "ci95": [low, high]}
