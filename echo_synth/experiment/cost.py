"""What drawing a dataset costs on a number of GPUs or cores: hours, disk and money, from a measured benchmark."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from echo_synth.data.facts import pictures_of
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError, SpecError
from echo_synth.estimate import IMAGE_BYTES, format_bytes
from echo_synth.experiment.measured import Basis, Machine, Throughput
from echo_synth.progress import counted

Kind = Literal["gpu", "cpu"]
_FILES_AN_IMAGE = 3  # image, label, picture
_MEASURE = "'echosynth benchmark --device {}'"


@dataclass(frozen=True)
class Footprint:
    """Disk of a dataset, both of its folders: bytes and files an image, and whose they are."""

    image_bytes: float
    image_files: float
    source: str


DOCUMENTED = Footprint(IMAGE_BYTES, _FILES_AN_IMAGE, "9000 images of noise-dataset, which compress worst")


@dataclass(frozen=True)
class Fleet:
    """What draws.

    Attributes:
        kind: GPUs or cores.
        count: of them.
        each: of them for one process.
        price: an hour of one, in any currency; None where nobody named it.
    """

    kind: Kind
    count: int
    each: int = 1
    price: float | None = None

    @property
    def processes(self) -> int:
        return self.count // self.each

    @property
    def unit(self) -> str:
        return "GPU" if self.kind == "gpu" else "core"


@dataclass(frozen=True)
class DatasetPlan:
    """Of one dataset.

    Attributes:
        seconds_per_image: of one process.
        hours: until the last process has drawn its share.
        device_hours: hours of GPUs or cores, those that wait for the last one included.
        bytes, files: that it leaves.
        money: in the currency of the price; None without one.
    """

    images: int
    model: str
    nfe: int
    fleet: Fleet
    seconds_per_image: float
    basis: Basis
    hours: float
    device_hours: float
    footprint: Footprint
    bytes: float
    files: int
    money: float | None
    machine: Machine

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        fleet = {"kind": self.fleet.kind, "count": self.fleet.count, "processes": self.fleet.processes}
        plain = {k: v for k, v in asdict(self).items() if k not in ("fleet", "machine")}
        return plain | {"fleet": fleet | {"price_per_hour": self.fleet.price}, "measured_on": self.machine.model_dump()}

    def lines(self) -> Iterator[str]:
        """For a person."""
        unit = self.fleet.unit
        yield f"{self.images:,} images, {self.model}, {self.nfe} NFE, {self.fleet.count} {unit}{'' if self.fleet.count == 1 else 's'}"
        yield f"  time     {format_hours(self.hours)} ({self.device_hours:,.1f} {unit} hours, {self.fleet.processes} processes)"
        yield f"  disk     {format_bytes(self.bytes)} in {self.files:,} files ({self.footprint.source})"
        yield f"  money    {format_money(self.money, self.fleet.price, unit)}"
        yield f"  from     {self.seconds_per_image:.3g} s an image and process, {self.basis}, on {machine_in_words(self.machine)}"


def fleet_of(gpus: int | None, cpus: int | None, price: float | None, machine: Machine) -> Fleet:
    """GPUs or cores of the kind that the benchmark ran on, one GPU where neither is named (of a benchmark on cores: those of one process).

    Raises SpecError where both are named, the benchmark ran on the other kind, or there are fewer cores than a process took.
    """
    if gpus is not None and cpus is not None:
        raise SpecError("--gpus and --cpus: expected one of them")
    measured = machine.accelerator
    kind: Kind = "cpu" if cpus is not None or (gpus is None and measured == "cpu") else "gpu"
    if measured is not None and (measured == "cpu") != (kind == "cpu"):
        here, other = ("--cpus", "cpu") if kind == "cpu" else ("--gpus", "cuda")
        raise SpecError(
            f"{here}: the benchmark ran on {machine_in_words(machine)}; measure with {_MEASURE.format(other)} on what will draw"
        )
    if kind == "gpu":
        return Fleet("gpu", gpus or 1, 1, price)
    each = machine.threads or 1
    count = each if cpus is None else cpus
    if count < each:
        raise SpecError(f"--cpus {count}: one process of the benchmark had {each}; ask for as many or more")
    return Fleet("cpu", count, each, price)


def plan_dataset(
    images: int, model: str, nfe: int, fleet: Fleet, throughput: Throughput, footprint: Footprint = DOCUMENTED
) -> DatasetPlan:
    """Of drawing `images` by `generate --shard`, as many shards as the fleet has processes.

    Loading and starting are not counted: seconds a process. Raises SpecError for a model that was not measured.
    """
    speed = throughput.speed(model, nfe)
    batch = min(throughput.machine.batch, images)
    batches = math.ceil(images / batch)
    busy = min(batches, fleet.processes)
    busiest = min(math.ceil(batches / busy) * batch, images)  # shards take whole batches in turn
    hours = busiest * speed.seconds / 3600
    device_hours = hours * busy * fleet.each
    return DatasetPlan(
        images,
        model,
        nfe,
        fleet,
        speed.seconds,
        speed.basis,
        hours,
        device_hours,
        footprint,
        images * footprint.image_bytes,
        round(images * footprint.image_files),
        None if fleet.price is None else device_hours * fleet.price,
        throughput.machine,
    )


def footprint_of(dataset: RawDataset) -> Footprint:
    """Measured on a dataset that is there. Raises DataError where it has no image."""
    images = len(dataset.cases())
    if not images:
        raise DataError(f"{dataset.path}: holds no image to measure; name another dataset")
    sizes = [size for folder in (dataset.path, pictures_of(dataset)) for size in _sizes(folder)]
    return Footprint(sum(sizes) / images, len(sizes) / images, f"as {dataset.name}, {images} images")


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of all files below."""
    for parent, _, names in os.walk(folder):
        for name in names:
            yield os.lstat(os.path.join(parent, name)).st_size


def machine_in_words(machine: Machine) -> str:
    """'NVIDIA H100, size tiny, bf16, batch 8'; of a CPU with the threads of a process."""
    threads = counted(machine.threads, "thread") if machine.accelerator == "cpu" and machine.threads else ""
    size = f"size {machine.size}" if machine.size else "a size that it does not tell"
    return ", ".join(
        filter(
            None, (machine.device or "an unnamed machine", threads, size, machine.precision, f"batch {machine.batch}")
        )
    )


def format_hours(hours: float) -> str:
    """'12 min', '5.2 h', '1,234 h (51 days)'."""
    if hours < 1:
        return f"{hours * 60:.3g} min"
    shown = f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"
    return shown if hours < 72 else f"{shown} ({hours / 24:,.0f} days)"


def format_money(money: float | None, price: float | None, unit: str) -> str:
    """'41.2, at 2.5 an hour of a GPU'."""
    if money is None:
        return f"name what an hour of a {unit} costs with --price"
    return f"{money:,.2f}, at {price:g} an hour of a {unit}"
