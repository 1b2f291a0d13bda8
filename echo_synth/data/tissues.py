"""Sector and tissue map: one case to its arrays on a grid, derived once for every stage.

The sector is the area that the ultrasound image fills. It is found on the source's own grid, where the
scanner's zero is exact. Every image that is written from it has grey level 1 or more inside the sector
and 0 outside, so that the same sector is found again when the file is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from echo_synth.data.nifti import Image2D
from echo_synth.data.resize import rescale_spacing, resize_grey, resize_labels, resize_mask
from echo_synth.metrics.components import largest_component

OTHER_TISSUE = 4
BEYOND = 4  # added to the label of anatomy outside the sector, in a whole map


@dataclass(frozen=True)
class Case2D:
    """One case on one grid.

    Attributes:
        image: (H, W) uint8, or the source's dtype on its own grid; 1 or more in the sector, 0 outside.
        labels: (H, W) uint8, nnU-Net labels 0..3.
        sector: (H, W) bool, one 4-connected component without holes.
        spacing: mm per pixel, (row, column).
    """

    image: NDArray[np.generic]
    labels: NDArray[np.uint8]
    sector: NDArray[np.bool_]
    spacing: tuple[float, float]

    @property
    def tissues(self) -> NDArray[np.uint8]:
        """(H, W) uint8, tissue ids 0..4, see `tissue_map`."""
        return tissue_map(self.labels, self.sector)

    @property
    def whole(self) -> NDArray[np.uint8]:
        """(H, W) uint8, ids 0..7, see `whole_map`."""
        return whole_map(self.labels, self.sector)


def derive_case(image: Image2D, mask: Image2D, size: int | None) -> Case2D:
    """Image, labels and sector of a case on a grid of `size` x `size`; on its own grid when `size` is None.

    Deriving the result again on the same grid changes nothing.

    Args:
        image: grey levels 0..255, 0 outside the sector.
        mask: nnU-Net labels 0..3, same shape.
    """
    sector = sector_mask(image.pixels)
    if size is None:
        whole = np.issubdtype(image.pixels.dtype, np.integer)
        lifted = np.maximum(image.pixels, 1).astype(np.uint8 if whole else np.float32)
        return Case2D(_cut(lifted, sector), mask.pixels.astype(np.uint8), sector, image.spacing)
    grid = (size, size)
    sector = sector_mask(resize_labels(sector, grid))
    lifted = np.maximum(resize_grey(image.pixels, grid), 1)
    spacing = rescale_spacing(image.spacing, image.pixels.shape, grid)
    return Case2D(_cut(lifted, sector), resize_mask(mask.pixels, grid), sector, spacing)


def _cut(pixels: NDArray[np.generic], sector: NDArray[np.bool_]) -> NDArray[np.generic]:
    return np.where(sector, pixels, np.zeros((), pixels.dtype))


def sector_mask(image: NDArray[np.generic], threshold: float = 0.0) -> NDArray[np.bool_]:
    """In-sector pixels of an echo image: the largest bright component, its holes filled.

    Dark pixels inside the sector, such as blood, are holes of the bright part and count as
    inside; a logo or a scale beside the sector is a smaller component and does not.

    Args:
        image: (H, W), any real dtype, background at or below `threshold`.
        threshold: grey level above which a pixel surely belongs to the sector.

    Returns:
        (H, W) bool, one 4-connected component without holes; all False for a black image.
    """
    bright = largest_component(np.asarray(image) > threshold, connectivity=4)
    return largest_component(ndimage.binary_fill_holes(bright), connectivity=4)


def tissue_map(labels: NDArray[np.integer], sector: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tissue ids 0..4 from nnU-Net labels 0..3 and the sector, both (H, W); returns (H, W) uint8.

    Background inside the sector becomes 4 (other tissue). Anatomy that annotators drew
    outside the sector is clipped, because there is no image.
    """
    tissues = np.where(labels == 0, OTHER_TISSUE, labels)
    return np.where(sector, tissues, 0).astype(np.uint8)


def whole_map(labels: NDArray[np.integer], sector: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`tissue_map` with the anatomy outside the sector as ids 5 to 7: cavity, myocardium and atrium.

    Annotators complete walls that the sector cuts, and segmenters are evaluated against their masks. A generator is
    not conditioned on this part (`visible`), but the labels of its images contain it (`anatomy`).
    """
    outside = np.where(labels == 0, 0, labels + BEYOND)
    return np.where(sector, tissue_map(labels, sector), outside).astype(np.uint8)


def visible(whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue ids 0..4 of a whole map, ids 0..7 (H, W) uint8."""
    return whole * (whole <= OTHER_TISSUE)  # products, not np.where: a fifth of the time, before every image is drawn


def anatomy(whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """nnU-Net labels 0..3 of a whole map, ids 0..7 (H, W) uint8, inside the sector and beyond."""
    return (whole - (whole > OTHER_TISSUE) * np.uint8(BEYOND)) * (whole != OTHER_TISSUE)
