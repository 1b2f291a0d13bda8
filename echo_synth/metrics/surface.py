"""Distances between the outlines of two masks, in the unit of the spacing.

The outline is the set of foreground pixels that touch background through an edge (MONAI's
`get_mask_edges`, checked against scipy's distance transforms in the tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class SurfaceDistances:
    """Symmetric distances of two outlines: Hausdorff, its 95th percentile, mean (ASSD).

    `hd95` is the larger of the two directed 95th percentiles; `assd` averages over all points of
    both outlines.
    """

    hd: float
    hd95: float
    assd: float


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Foreground pixels with a 4-neighbour outside, (H, W) bool; the image border counts as outside."""
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float] = (1.0, 1.0)
) -> SurfaceDistances:
    """Distances between the outlines of two masks (H, W).

    Args:
        spacing: size of a pixel, (row, column), e.g. in mm.

    Returns:
        NaN in every field when either mask is empty: there is no distance to nothing, and the
        caller states how it penalises that.
    """
    if not prediction.any() or not reference.any():
        return SurfaceDistances(float("nan"), float("nan"), float("nan"))
    there = _directed(prediction, reference, spacing)
    back = _directed(reference, prediction, spacing)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return SurfaceDistances(float(both.max()), float(hd95), float(both.mean()))


def _directed(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Distance of every outline point of `a` to the nearest outline point of `b`."""
    to_b = ndimage.distance_transform_edt(~outline(b), sampling=spacing)
    distances: NDArray[np.float64] = to_b[outline(a)]
    return distances
