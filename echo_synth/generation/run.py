"""Drawing a dataset from end to end: what is missing, in chunks at fixed places, then the indexes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data.maps import MapFolder
from echo_synth.data.nifti import read_pixels
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.subject import Subject
from echo_synth.data.tissue_colours import tissue_image
from echo_synth.data.tissues import anatomy, visible
from echo_synth.files import write_png
from echo_synth.generation.shards import Shard
from echo_synth.generation.timing import Attempt, record_attempt
from echo_synth.generation.writer import PREVIEW, DatasetWriter
from echo_synth.progress import Meter

_PREVIEW_COLUMNS = 8


class ImageSource(Protocol):
    """What makes images from maps: `sources.SampledImages`, `physics.BmodeImages`, `noise.NoiseTextures`.

    Attributes:
        device, precision: that it computes with, for the record of times.
        evaluations: of a network that an image takes; 0 for none.
    """

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def evaluations(self) -> int: ...

    def draw(
        self,
        tissues: NDArray[np.uint8],
        frames: NDArray[np.uint8],
        seed: int,
        indices: Sequence[int],
        on_evaluation: Callable[[], None],
    ) -> NDArray[np.uint8]:
        """Images (N, 256, 256) uint8 number `indices` of a dataset with that seed, 0 outside the sector.

        Args:
            tissues: (N, 256, 256) uint8 tissue ids.
            frames: (N,) uint8, 0 to 3: view + 2 x phase.
            on_evaluation: called after each evaluation, of all N images at once.
        """
        ...


class Shown(Protocol):
    """Where a process says how far it is: `progress.Meter`, or the process that shows it for several."""

    def update(self, n: int = 1, note: str = "") -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Drawn:
    """What one process did: images drawn now, the seconds that took, and whether the dataset is complete."""

    images: int
    seconds: float
    complete: bool


def generate(
    source: ImageSource,
    maps: MapFolder,
    writer: DatasetWriter,
    seed: int,
    batch: int,
    recorded: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    shown: Shown | None = None,
) -> Drawn:
    """Draw every image of `writer.rows` that is missing and belongs to this shard.

    Work goes in chunks of `batch` rows at fixed places: an image is always computed beside the
    same neighbours, whatever is missing, so a resumed run gives the same bytes. Shards take
    chunks in turn. timing.json gets a record, also of an attempt that ends early.

    Args:
        recorded: columns of the manifest that are the same for all images.
        facts: see `DatasetWriter.finish`.
        shown: hears of each image; None: a bar of this process's own.
    """
    start, drawn = time.monotonic(), 0
    writer.forget_lost()
    restore_lost(writer, maps, batch)
    try:
        with closing(_Chunks(writer, batch, shown)) as chunks:
            for chunk, missing in chunks:
                whole = [maps.read_whole(name) for name in chunk["map"]]
                tissues, frames = np.stack([visible(map_) for map_ in whole]), frames_of(chunk, maps.subject)
                tick = chunks.ticker(source.evaluations)
                images = source.draw(tissues, frames, seed, chunk["index"].tolist(), tick)
                for i, row in enumerate(_records(chunk)):
                    if missing[i]:
                        writer.submit(row, images[i], anatomy(whole[i]))
                        drawn += 1
        writer.flush()
    finally:
        seconds = time.monotonic() - start
        if drawn:
            where = (source.device, source.precision, str(writer.shard))
            by = {"processes": writer.shard.together, **_software(source)}
            record_attempt(writer.raw, Attempt(drawn, round(seconds, 3), *where, **by))
    complete = writer.finish(recorded, facts)
    if complete:
        write_preview(writer, maps)
        writer.record_sums()
    return Drawn(drawn, seconds, complete)


def _software(source: ImageSource) -> dict[str, Any]:
    """What `timing.Attempt` says of torch and the GPU."""
    if not source.evaluations:
        return {}
    import torch

    hardware = torch.cuda.get_device_name(source.device) if source.device.startswith("cuda") else ""
    return {"torch": torch.__version__, "hardware": hardware, "threads": torch.get_num_threads()}


def restore_lost(writer: DatasetWriter, maps: MapFolder, batch: int) -> None:
    """Write labels and pictures that were lost beside an image that is there (or belong into another folder now)."""
    lost = writer.missing() & writer.has_image()
    for start in _starts(writer, batch):
        rows = writer.rows.iloc[start : start + batch][lost[start : start + batch]]
        for row in _records(rows):
            image = read_pixels(RawDataset(writer.raw).image_path(row["case"], "train"))
            writer.submit(row, np.asarray(image, np.uint8), maps.read_labels(row["map"]))
    writer.flush()


def _starts(writer: DatasetWriter, batch: int) -> list[int]:
    """First rows of this shard's chunks."""
    return _starts_of(len(writer.rows), batch, writer.shard)


def _starts_of(images: int, batch: int, shard: Shard) -> list[int]:
    every = range(0, images, batch)
    return [start for k, start in enumerate(every) if k % shard.count == shard.index]


def rows_of(rows: pd.DataFrame, batch: int, shard: Shard) -> pd.DataFrame:
    """Those rows of a plan that `shard` draws."""
    return pd.concat([rows.iloc[:0], *(rows.iloc[s : s + batch] for s in _starts_of(len(rows), batch, shard))])


def chunks_left(writer: DatasetWriter, batch: int) -> int:
    """Chunks of this shard that lack an image."""
    missing = writer.missing()
    return sum(bool(missing[start : start + batch].any()) for start in _starts(writer, batch))


def progress_of(writer: DatasetWriter, batch: int) -> tuple[int, int]:
    """Images of this shard, and how many of them are there."""
    missing, mine = writer.missing(), _starts(writer, batch)
    total = sum(len(missing[start : start + batch]) for start in mine)
    return total, total - sum(int(missing[start : start + batch].sum()) for start in mine)


def meter_of(images: int, done: int) -> Meter:
    """The bar of a drawing, where `done` images were there before."""
    return Meter(images, "generate", "images", done=done)


class _Chunks:
    """Rows of this shard's chunks that lack images, with which of them do, (batch,) bool; shows how far they are."""

    def __init__(self, writer: DatasetWriter, batch: int, shown: Shown | None) -> None:
        self.rows, self.batch, self.missing = writer.rows, batch, writer.missing()
        self.todo = [s for s in _starts(writer, batch) if self.missing[s : s + batch].any()]
        self.meter = shown or meter_of(*progress_of(writer, batch))

    def __iter__(self) -> Iterator[tuple[pd.DataFrame, NDArray[np.bool_]]]:
        for start in self.todo:
            missing = self.missing[start : start + self.batch]
            yield self.rows.iloc[start : start + self.batch], missing
            self.meter.update(int(missing.sum()))

    def ticker(self, evaluations: int) -> Callable[[], None]:
        """To call after each of the `evaluations` that a chunk takes: the bar moves before its first image is done."""
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            self.meter.update(0, f"evaluation {done} of {evaluations}")

        return tick

    def close(self) -> None:
        self.meter.close()


def read_batch(maps: MapFolder, rows: pd.DataFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tissue maps (N, 256, 256) uint8 and frames (N,) uint8 of some rows (columns map, view, phase) of an index or plan."""
    return np.stack([maps.read(name) for name in rows["map"]]), frames_of(rows, maps.subject)


def frames_of(rows: pd.DataFrame, subject: Subject) -> NDArray[np.uint8]:
    """Frames (N,) uint8, see `diffusion.labels`, of rows with columns view and phase, which are those of `subject`."""
    return np.asarray([subject.frame(v, p) for v, p in zip(rows["view"], rows["phase"], strict=True)], np.uint8)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def write_preview(writer: DatasetWriter, maps: MapFolder) -> None:
    """preview.png: the first sixteen images above their maps."""
    dataset = RawDataset(writer.raw)
    pairs = [
        (np.asarray(read_pixels(dataset.image_path(r["case"], "train"))), maps.read(r["map"]))
        for r in _records(writer.rows.head(2 * _PREVIEW_COLUMNS))
    ]
    save_preview(writer.raw / PREVIEW, pairs)


def save_preview(path: Path, pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Images above their tissue maps, both (256, 256) uint8, eight a line, at half their size."""
    columns = _PREVIEW_COLUMNS
    tiles = [_tile(image, tissues) for image, tissues in pairs]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    lines = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    write_png(path, np.concatenate(lines, axis=0))


def _tile(image: NDArray[np.uint8], tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([np.repeat(image[::2, ::2, None], 3, axis=2), tissue_image(tissues[::2, ::2])], axis=0)


def total_cases(rows: pd.DataFrame) -> str:
    """'1800 images of 450 patients'."""
    return f"{len(rows)} images of {rows['patient'].nunique()} patients"
