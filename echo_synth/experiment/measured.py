"""What `echosynth benchmark` measured, read again: seconds an image of each model at any NFE, and on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from echo_synth.data.tables import Column, Table, read_table
from echo_synth.errors import DataError, SpecError
from echo_synth.records import read_json_as

THROUGHPUT = Table(
    "throughput.csv",
    "echosynth benchmark",
    "",
    (
        Column("model", "text", "name of the preset", needed=True),
        Column("nfe", "number", "network evaluations", needed=True, low=1, high=1e6),
        Column("images_per_second", "number", "drawn, decoded and written", "1/s", needed=True, low=1e-9, high=1e9),
    ),
)
Basis = Literal["measured", "between measurements", "beyond measurements"]


class Machine(BaseModel):
    """Of the benchmark's settings.json: what it ran on. What an older benchmark did not say is None."""

    model_config = ConfigDict(extra="ignore")
    device: str = Field(default="", max_length=200)
    accelerator: Literal["cuda", "cpu"] | None = None
    threads: int | None = Field(default=None, ge=1, le=100_000)
    size: str | None = Field(default=None, max_length=40)
    precision: str | None = Field(default=None, max_length=40)
    batch: int = Field(default=1, ge=1, le=65_536)

    @property
    def units(self) -> int:
        """GPUs or cores that one process takes: what a price of one GPU or core is multiplied by."""
        return self.threads or 1 if self.accelerator == "cpu" else 1


@dataclass(frozen=True)
class Speed:
    """Seconds of drawing one image in one process, and how they are known."""

    seconds: float
    basis: Basis


@dataclass(frozen=True)
class Throughput:
    """A benchmark.

    Attributes:
        folder: where it lies.
        machine: what it ran on.
        seconds: an image by model: pairs of NFE and seconds, NFE rising.
    """

    folder: Path
    machine: Machine
    seconds: Mapping[str, Sequence[tuple[int, float]]]

    def speed(self, model: str, nfe: int) -> Speed:
        """Of `model` at `nfe`: along a line through the two nearest measurements, since each evaluation costs the same.

        Beyond the measurements it never falls below what a line through them and proportion allow: more evaluations
        do not get cheaper in all, nor dearer one by one.

        Raises SpecError that tells how to measure, for a model that was not.
        """
        known = self.seconds.get(model)
        if not known:
            raise SpecError(
                f"{self.folder}: has no {model}, but {', '.join(self.seconds)}; "
                f"measure it with 'echosynth benchmark --models {model}'"
            )
        for measured, seconds in known:
            if measured == nfe:
                return Speed(seconds, "measured")
        below = [p for p in known if p[0] < nfe]
        above = [p for p in known if p[0] > nfe]
        if below and above:
            return Speed(_on_line(below[-1], above[0], nfe), "between measurements")
        nearest, *rest = known[::-1] if below else known
        guess = _on_line(nearest, rest[0], nfe) if rest else nearest[1] * max(1.0, nfe / nearest[0])
        ends = sorted((nearest[1], nearest[1] * nfe / nearest[0]))
        return Speed(min(max(guess, ends[0]), ends[1]), "beyond measurements")


def read_throughput(path: Path) -> Throughput:
    """A benchmark's folder, or its throughput.csv.

    Raises DataError that names the command where it is missing, or the column where it is damaged.
    """
    folder = path.parent if path.suffix == ".csv" else path
    file = folder / THROUGHPUT.file
    if not file.is_file():
        raise DataError(
            f"{file}: missing; expected what 'echosynth benchmark --out {folder}' leaves; run it on the machine that will draw"
        )
    table = read_table(file, THROUGHPUT)
    if table.duplicated(["model", "nfe"]).any():
        row = table[table.duplicated(["model", "nfe"])].iloc[0]
        raise DataError(f"{file}: {row['model']} at {row['nfe']:g} NFE is listed twice")
    seconds = {
        str(model): [
            (int(n), 1 / speed) for n, speed in sorted(zip(rows["nfe"], rows["images_per_second"], strict=True))
        ]
        for model, rows in table.groupby("model", sort=False)
    }
    settings = folder / "settings.json"
    machine = read_json_as(Machine, settings, "echosynth benchmark") if settings.is_file() else Machine()
    return Throughput(folder, machine, seconds)


def _on_line(a: tuple[int, float], b: tuple[int, float], nfe: int) -> float:
    return a[1] + (b[1] - a[1]) * (nfe - a[0]) / (b[0] - a[0])
