"""Overlap of two masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def structure_mask(labels: NDArray[np.integer], values: Sequence[int]) -> NDArray[np.bool_]:
    """Union of the labels that make a structure, (H, W) bool; LV epicardium is (1, 2)."""
    return np.isin(labels, list(values))


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """2 |A ∩ B| / (|A| + |B|), in [0, 1]; NaN when both are empty (nnU-Net's convention)."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else float("nan")
