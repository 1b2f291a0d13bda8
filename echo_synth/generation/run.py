"""`generate` from end to end: plan, draw what is missing, finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from echo_synth import specs
from echo_synth.data.maps import MapFolder
from echo_synth.files import write_atomic
from echo_synth.generation.engine import SamplerSettings
from echo_synth.generation.writer import DatasetWriter
from echo_synth.progress import Meter
from echo_synth.types import VIEWS


class Draws(Protocol):
    """What makes images from maps: `engine.Generator`, `noise.NoiseTextures`."""

    def draw(
        self,
        tissues: NDArray[np.uint8],
        views: NDArray[np.uint8],
        seed: int,
        indices: Sequence[int],
        how: SamplerSettings,
    ) -> NDArray[np.uint8]: ...


def generate(
    generator: Draws,
    maps: MapFolder,
    writer: DatasetWriter,
    how: SamplerSettings,
    seed: int,
    batch: int,
    common: Mapping[str, Any],
) -> tuple[int, bool]:
    """Draw every image of `writer.rows` that is missing and belongs to this shard.

    Work goes in chunks of `batch` rows at fixed places: an image is always computed beside the
    same neighbours, whatever is missing, so a resumed run gives the same bytes. Shards take
    chunks in turn.

    Returns:
        images drawn now, and whether the dataset is complete.
    """
    rows, missing = writer.rows, writer.missing()
    shard, shards = writer.shard
    starts = [s for k, s in enumerate(range(0, len(rows), batch)) if k % shards == shard]
    todo = [s for s in starts if missing[s : s + batch].any()]
    mine = sum(len(rows.iloc[s : s + batch]) for s in starts)
    meter = Meter(mine, "generate", "images", done=mine - sum(int(missing[s : s + batch].sum()) for s in todo))
    drawn = 0
    try:
        for start in todo:
            chunk = rows.iloc[start : start + batch]
            tissues = np.stack([maps.read(name) for name in chunk["map"]])
            views = np.asarray([VIEWS.index(v) for v in chunk["view"]], np.uint8)
            images = generator.draw(tissues, views, seed, chunk["index"].tolist(), how)
            for i, row in enumerate(_records(chunk)):
                if missing[start + i]:
                    writer.submit(row, images[i], tissues[i])
                    drawn += 1
            meter.update(int(missing[start : start + batch].sum()))
        writer.flush()
    finally:
        meter.close()
        writer.close()
    complete = writer.finish(common)
    if complete:
        write_preview(writer, maps)
    return drawn, complete


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def write_preview(writer: DatasetWriter, maps: MapFolder, columns: int = 8) -> None:
    """preview.png: the first sixteen images above their maps."""
    from echo_synth.data.nnunet_raw import RawDataset, read_pixels

    chosen = writer.rows.head(2 * columns)
    dataset = RawDataset(writer.raw)
    tiles = [
        _tile(np.asarray(read_pixels(dataset.image_path(r["case"], "train"))), maps.read(r["map"]))
        for r in _records(chosen)
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    lines = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    picture = Image.fromarray(np.concatenate(lines, axis=0))
    write_atomic(writer.raw / "preview.png", lambda p: picture.save(p))


def _tile(image: NDArray[np.uint8], tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    palette = np.asarray([t.colour for t in specs.labels().tissues.values()], np.uint8)
    return np.concatenate([np.repeat(image[::2, ::2, None], 3, axis=2), palette[tissues[::2, ::2]]], axis=0)


def total_cases(rows: pd.DataFrame) -> str:
    """'1800 images of 450 patients'."""
    return f"{len(rows)} images of {rows['patient'].nunique()} patients"
