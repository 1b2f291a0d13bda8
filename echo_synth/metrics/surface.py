"""Distances between the outlines of two masks, in the unit of the spacing.

The outline is the set of foreground pixels that touch background through an edge. Definitions
are MONAI's, and the tests hold the two together; the work is scipy's, because MONAI's float32
distances are off by a micrometre and every scoring process would load it for seconds.
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


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float] = (1.0, 1.0)
) -> SurfaceDistances:
    """Distances between the outlines of two masks (H, W).

    Args:
        spacing: size of a pixel, (row, column), e.g. in mm.

    Returns:
        NaN in every field when either mask is empty: then there is no distance, and the
        caller decides on a penalty.
    """
    if not prediction.any() or not reference.any():
        return SurfaceDistances(float("nan"), float("nan"), float("nan"))
    # Erosion takes what lies beyond the picture as background.
    a, b = (mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference))
    there, back = _directed(a, b, spacing), _directed(b, a, spacing)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return SurfaceDistances(float(both.max()), float(hd95), float(both.mean()))


def _directed(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Distance of every outline point of `a` to the nearest of `b`; both outlines on one grid."""
    distances: NDArray[np.float64] = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    return distances
