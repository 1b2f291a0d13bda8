"""Connected components of a mask."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Connectivity = Literal[4, 8]


def largest_component(mask: NDArray[np.bool_], connectivity: Connectivity = 8) -> NDArray[np.bool_]:
    """Largest connected component of `mask`; the first in row order if two are equally large.

    Args:
        mask: (H, W) bool.
        connectivity: 4 joins pixels that share an edge, 8 also those that share a corner.

    Returns:
        (H, W) bool; an empty mask stays empty.
    """
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    labelled, count = ndimage.label(mask, structure)
    if count <= 1:
        return mask
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = labelled == sizes.argmax()
    return largest


def count_components(mask: NDArray[np.bool_], connectivity: Connectivity = 8) -> int:
    """How many connected components `mask`, (H, W) bool, has; 0 where it is empty."""
    _, count = ndimage.label(mask, ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2))
    return int(count)
