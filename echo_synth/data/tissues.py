"""The ultrasound sector: where the scanner drew an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Largest 4-connected component of `mask` (H, W) bool; all False stays all False."""
    labelled, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = labelled == sizes.argmax()
    return largest


def sector_mask(image: NDArray[np.generic], threshold: float = 0.0) -> NDArray[np.bool_]:
    """In-sector pixels of an echo image (SPEC, "Sector label").

    Args:
        image: (H, W), any real dtype, background at or below `threshold`.
        threshold: grey level above which a pixel surely belongs to the sector.

    Returns:
        (H, W) bool, one component without holes. Dark pixels inside the sector count as
        inside because their holes are filled.
    """
    bright = largest_component(np.asarray(image) > threshold)
    return largest_component(ndimage.binary_fill_holes(bright))


def count_holes_and_components(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Holes and 4-connected components of `mask` (H, W) bool, counted independently of `sector_mask`.

    A hole is an 8-connected background component that does not touch the image border.
    """
    padded = np.pad(~mask, 1, constant_values=True)
    _, background = ndimage.label(padded, structure=np.ones((3, 3)))
    _, components = ndimage.label(mask)
    return background - 1, components


def tissue_map(labels: NDArray[np.integer], sector: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tissue ids 0..4 from nnU-Net labels 0..3 and the sector, both (H, W).

    Background inside the sector becomes 4 (other tissue). Anatomy that the annotators drew
    beyond the sector's edge is clipped: there is no image there to learn from.
    """
    tissues = np.where(labels == 0, 4, labels)
    return np.where(sector, tissues, 0).astype(np.uint8)
