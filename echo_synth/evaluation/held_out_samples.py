"""Images drawn for the maps of held-out validation cases, under the real ones: the paper's figure 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.prepared import Prepared
from echo_synth.errors import DataError
from echo_synth.generation.engine import ImageGenerator, default_settings


def held_out_cases(data: Prepared, count: int) -> NDArray[np.intp]:
    """Positions of `count` validation cases, spread evenly. Raises DataError when there is none."""
    rows = data.rows("val")
    if not len(rows):
        raise DataError("this dataset has no validation cases, whose maps would be drawn; convert it with a split")
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).astype(int)])


def draw_held_out(
    generator: ImageGenerator,
    data: Prepared,
    rows: NDArray[np.intp],
    discretization: str,
    budgets: Sequence[int],
    solver: str,
    seed: int,
) -> NDArray[np.uint8]:
    """The real images of `rows` and what is drawn for their maps at each NFE, (len(rows), 1 + len(budgets), H, W) uint8."""
    layers = [np.asarray(data.images[rows])]
    for nfe in budgets:
        settings = default_settings(discretization, nfe, solver)
        layers.append(generator.draw(data.tissues[rows], data.views[rows], seed, range(len(rows)), settings))
    return np.stack(layers, axis=1)
