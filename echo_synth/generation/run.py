"""Drawing a dataset from end to end: what is missing, in chunks at fixed places, then the indexes."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.maps import MapFolder
from echo_synth.data.nifti import read_pixels
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.files import write_png
from echo_synth.generation.timing import Attempt, record_attempt
from echo_synth.generation.writer import DatasetWriter
from echo_synth.progress import Meter
from echo_synth.types import VIEWS

_PREVIEW_COLUMNS = 8


class ImageSource(Protocol):
    """What makes images from maps: `sources.SampledImages`, `noise.NoiseTextures`.

    Attributes:
        device, precision: that it computes with, for the record of times.
    """

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...

    def draw(
        self, tissues: NDArray[np.uint8], views: NDArray[np.uint8], seed: int, indices: Sequence[int]
    ) -> NDArray[np.uint8]:
        """Images (N, 256, 256) uint8 number `indices` of a dataset with that seed, 0 outside the sector.

        Args:
            tissues: (N, 256, 256) uint8 tissue ids.
            views: (N,) uint8, 0 for 2CH, 1 for 4CH.
        """
        ...


@dataclass(frozen=True)
class Drawn:
    """What one process did: images drawn now, the seconds that took, and whether the dataset is complete."""

    images: int
    seconds: float
    complete: bool


def generate(
    source: ImageSource, maps: MapFolder, writer: DatasetWriter, seed: int, batch: int, recorded: Mapping[str, Any]
) -> Drawn:
    """Draw every image of `writer.rows` that is missing and belongs to this shard.

    Work goes in chunks of `batch` rows at fixed places: an image is always computed beside the
    same neighbours, whatever is missing, so a resumed run gives the same bytes. Shards take
    chunks in turn. timing.json gets a record, also of an attempt that ends early.

    Args:
        recorded: columns of the manifest that are the same for all images.
    """
    start, drawn = time.monotonic(), 0
    try:
        with closing(_chunks_to_draw(writer, batch)) as chunks:
            for chunk, missing in chunks:
                tissues, views = read_batch(maps, chunk)
                images = source.draw(tissues, views, seed, chunk["index"].tolist())
                for i, row in enumerate(_records(chunk)):
                    if missing[i]:
                        writer.submit(row, images[i], tissues[i])
                        drawn += 1
        writer.flush()
    finally:
        writer.close()
        seconds = time.monotonic() - start
        if drawn:
            shard = f"{writer.shard[0]}/{writer.shard[1]}"
            record_attempt(writer.raw, Attempt(drawn, round(seconds, 3), source.device, source.precision, shard))
    complete = writer.finish(recorded)
    if complete:
        write_preview(writer, maps)
    return Drawn(drawn, seconds, complete)


def _chunks_to_draw(writer: DatasetWriter, batch: int) -> Generator[tuple[pd.DataFrame, NDArray[np.bool_]]]:
    """Rows of this shard's chunks that lack images, with which of them do; shows how far they are."""
    missing = writer.missing()
    shard, shards = writer.shard
    mine = [s for k, s in enumerate(range(0, len(writer.rows), batch)) if k % shards == shard]
    todo = [s for s in mine if missing[s : s + batch].any()]
    total = sum(len(writer.rows.iloc[s : s + batch]) for s in mine)
    meter = Meter(total, "generate", "images", done=total - sum(int(missing[s : s + batch].sum()) for s in todo))
    try:
        for start in todo:
            yield writer.rows.iloc[start : start + batch], missing[start : start + batch]
            meter.update(int(missing[start : start + batch].sum()))
    finally:
        meter.close()


def read_batch(maps: MapFolder, rows: pd.DataFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tissue maps (N, 256, 256) uint8 and views (N,) uint8 of some rows (columns map, view) of an index or plan."""
    tissues = np.stack([maps.read(name) for name in rows["map"]])
    return tissues, np.asarray([VIEWS.index(v) for v in rows["view"]], np.uint8)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def write_preview(writer: DatasetWriter, maps: MapFolder) -> None:
    """preview.png: the first sixteen images above their maps."""
    dataset, columns = RawDataset(writer.raw), _PREVIEW_COLUMNS
    tiles = [
        _tile(np.asarray(read_pixels(dataset.image_path(r["case"], "train"))), maps.read(r["map"]))
        for r in _records(writer.rows.head(2 * columns))
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    lines = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    write_png(writer.raw / "preview.png", np.concatenate(lines, axis=0))


def _tile(image: NDArray[np.uint8], tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    palette = np.asarray([t.colour for t in specs.labels().tissues.values()], np.uint8)
    return np.concatenate([np.repeat(image[::2, ::2, None], 3, axis=2), palette[tissues[::2, ::2]]], axis=0)


def total_cases(rows: pd.DataFrame) -> str:
    """'1800 images of 450 patients'."""
    return f"{len(rows)} images of {rows['patient'].nunique()} patients"
