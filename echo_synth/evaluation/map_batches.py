"""A few condition maps as one batch, to measure solvers and speed on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.maps import MapFolder
from echo_synth.generation.run import read_batch

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # tissue ids (N, 256, 256) and frames (N,), 0 to 3


def first_maps(folder: MapFolder, count: int) -> Batch:
    """The first `count` maps of a folder; all where it has fewer."""
    return read_batch(folder, folder.index.iloc[:count])


def spread_maps(folder: MapFolder, count: int) -> Batch:
    """`count` maps spread evenly over a folder; some twice where it has fewer."""
    return read_batch(folder, folder.index.iloc[np.linspace(0, len(folder.index) - 1, count).astype(int)])
