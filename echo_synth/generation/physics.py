"""Maps shown by simulated physics: a generator that was never trained, which a learned one must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MODEL = "bmode"
RENDERER = "bmode-1"  # to be counted up when the same map and seed give another image


class BmodeImages:
    """An `ImageSource`: image i depends on (seed, i), its map, and the map's spacing, view and phase.

    Args:
        rows: the plan, see `manifest.plan_images`.
    """

    device, precision, evaluations = "cpu", "", 0

    def __init__(self, rows: pd.DataFrame) -> None:
        named = rows[["index", "spacing_row_mm", "spacing_column_mm", "view", "phase"]]
        self._known = {int(i): ((float(r), float(c)), str(v), str(p)) for i, r, c, v, p in named.to_numpy()}

    def draw(
        self,
        tissues: NDArray[np.uint8],
        views: NDArray[np.uint8],
        seed: int,
        indices: Sequence[int],
        on_evaluation: Callable[[], None],
    ) -> NDArray[np.uint8]:
        """Images (N, 256, 256) uint8, see `run.ImageSource`."""
        from echo_synth.phantom.map_scene import render_map  # a second of imports that trained models do without

        pairs = zip(tissues, indices, strict=True)
        return np.stack([render_map(map_, *self._known[i], np.random.default_rng([seed, i])) for map_, i in pairs])
