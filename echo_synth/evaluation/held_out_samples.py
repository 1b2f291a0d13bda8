"""Images drawn for the maps of held-out validation cases, under the real ones: the paper's figure 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.prepared import Prepared
from echo_synth.errors import DataError
from echo_synth.generation.engine import ImageGenerator, SamplerSettings


def need_cases(dataset: RawDataset, split: str) -> None:
    """Raise DataError, before anything is prepared, where a dataset has no case in `split`."""
    if not (dataset.cases()["split"] == split).any():
        raise DataError(f"{dataset.path}: no case in split '{split}'; convert it with a split that has some")


def held_out_cases(data: Prepared, count: int) -> NDArray[np.intp]:
    """Positions of `count` validation cases, or of all if there are fewer (some, see `need_cases`), spread evenly."""
    rows = data.rows("val")
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)])


def draw_held_out(
    generator: ImageGenerator,
    data: Prepared,
    rows: NDArray[np.intp],
    samplers: Sequence[SamplerSettings],
    seed: int,
) -> NDArray[np.uint8]:
    """The real images of `rows` and what each sampler draws for their maps, (len(rows), 1 + len(samplers), H, W) uint8."""
    layers = [np.asarray(data.images[rows])]
    for settings in samplers:
        layers.append(generator.draw(data.tissues[rows], data.frames[rows], seed, range(len(rows)), settings))
    return np.stack(layers, axis=1)
