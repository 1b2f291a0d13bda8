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
from echo_synth.progress import Meter, counted

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
                        drawn += 1  # first: what is written is counted, wherever Ctrl-C comes
                        writer.submit(row, images[i], anatomy(whole[i]))
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
    for chunk in chunks_of(len(writer.rows), batch, writer.shard):
        for row in _records(writer.rows.iloc[chunk][lost[chunk]]):
            image = read_pixels(RawDataset(writer.raw).image_path(row["case"], "train"))
            writer.submit(row, np.asarray(image, np.uint8), maps.read_labels(row["map"]))
    writer.flush()


def chunks_of(images: int, batch: int, shard: Shard) -> list[slice]:
    """Rows of the chunks that `shard` draws, of a dataset with so many images."""
    every = [slice(start, min(start + batch, images)) for start in range(0, images, batch)]
    return every[shard.index :: shard.count]


@dataclass(frozen=True)
class Progress:
    """What a shard has, and what it lacks.

    Attributes:
        images: of this shard.
        done: of these, how many are there.
        todo: its chunks that lack an image.
        missing: (images of the dataset,) bool.
    """

    images: int
    done: int
    todo: list[slice]
    missing: NDArray[np.bool_]

    @classmethod
    def of(cls, writer: DatasetWriter, batch: int) -> Progress:
        """As the files say now."""
        missing = writer.missing()
        mine = chunks_of(len(missing), batch, writer.shard)
        lacking = [int(missing[chunk].sum()) for chunk in mine]
        images = sum(chunk.stop - chunk.start for chunk in mine)
        todo = [chunk for chunk, n in zip(mine, lacking, strict=True) if n]
        return cls(images, images - sum(lacking), todo, missing)

    def meter(self) -> Meter:
        """A bar that starts at what is done."""
        return Meter(self.images, "generate", "images", done=self.done)


class _Chunks:
    """Rows of this shard's chunks that lack images, with which of them do, (batch,) bool; shows how far they are."""

    def __init__(self, writer: DatasetWriter, batch: int, shown: Shown | None) -> None:
        self.rows, self.progress = writer.rows, Progress.of(writer, batch)
        self.meter = shown or self.progress.meter()

    def __iter__(self) -> Iterator[tuple[pd.DataFrame, NDArray[np.bool_]]]:
        for chunk in self.progress.todo:
            missing = self.progress.missing[chunk]
            yield self.rows.iloc[chunk], missing
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
    return f"{counted(len(rows), 'image')} of {counted(rows['patient'].nunique(), 'patient')}"
