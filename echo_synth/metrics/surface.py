"""Distances between the outlines of two masks, in the unit of the spacing.

The outline is the set of foreground pixels that touch background through an edge, as MONAI
finds it. The distances are scipy's: MONAI's own are float32, which is off by a micrometre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from monai.metrics.utils import get_mask_edges
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
    # MONAI crops to the masks; without a margin its erosion would not see that the picture's border is outside.
    a, b = (np.asarray(edge, bool) for edge in get_mask_edges(np.pad(prediction, 1), np.pad(reference, 1)))
    there, back = _directed(a, b, spacing), _directed(b, a, spacing)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return SurfaceDistances(float(both.max()), float(hd95), float(both.mean()))


def _directed(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Distance of every outline point of `a` to the nearest of `b`; both outlines on one grid."""
    distances: NDArray[np.float64] = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    return distances
