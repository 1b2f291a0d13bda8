"""What a sweep costs: hours, disk and money of its spec, before there are data and weights, from a measured benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from echo_synth.errors import EchoSynthError
from echo_synth.estimate import format_bytes
from echo_synth.experiment.cells import build_cells, choose_cells
from echo_synth.experiment.cost import (
    DOCUMENTED,
    Fleet,
    Footprint,
    format_hours,
    format_money,
    machine_in_words,
    plan_dataset,
)
from echo_synth.experiment.estimate import GPU_FACTOR, classifier_images, estimate_segmenter
from echo_synth.experiment.measured import Machine, Throughput
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import DRAWN_KINDS, Cell, Stage, StageKind, imported_name, in_order
from echo_synth.experiment.workspace import Done, read_done

# Of one image on two cores of 2.5 GHz, where no training of the sweep has ended yet.
_CLASSIFIER_SECONDS = 0.5
_CORES = 2
_CLASSIFIER_BYTES = 325e6  # weights and training state
_HELD_OUT_SECONDS = 300.0  # of predicting, of evaluating and of judging some hundred images, start included
_RENDERING_SECONDS = 0.1  # of an image without a network, on one core
TRAININGS: Mapping[StageKind, str] = {
    "segmenter": "segmenters",
    "classifier": "view classifiers",
    "predict": "predictions",
    "quality": "datasets whose images are judged",
    "evaluate": "evaluations",
}


@dataclass(frozen=True)
class Part:
    """One line of the bill: what, how many of them, hours of one GPU (or one process on cores), bytes, and how the hours are known."""

    name: str
    count: int
    hours: float
    bytes: float
    known: str


@dataclass(frozen=True)
class SweepCost:
    """Of all stages of the cells, what they share counted once; `datasets` are those that models draw."""

    datasets: int
    parts: Sequence[Part]
    fleet: Fleet
    machine: Machine

    @property
    def hours(self) -> float:
        return sum(p.hours for p in self.parts)

    @property
    def device_hours(self) -> float:
        """Hours of GPUs, or of cores."""
        return self.hours * self.fleet.each

    @property
    def money(self) -> float | None:
        return None if self.fleet.price is None else self.device_hours * self.fleet.price

    def as_dict(self) -> dict[str, Any]:
        """For the settings that a dry run prints."""
        return {
            "datasets": self.datasets,
            f"{self.fleet.kind}_hours": self.device_hours,
            "bytes": sum(p.bytes for p in self.parts),
            "money": self.money,
            "price_per_hour": self.fleet.price,
            "parts": [asdict(p) for p in self.parts],
            "measured_on": self.machine.model_dump(),
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        unit = self.fleet.unit
        for p in self.parts:
            yield f"  {p.count:3d} {p.name}: {format_hours(p.hours * self.fleet.each)}, {format_bytes(p.bytes)} ({p.known})"
        yield f"{self.datasets} synthetic datasets and all that is trained on them: {self.device_hours:,.1f} {unit} hours, {format_bytes(sum(p.bytes for p in self.parts))}"
        yield f"money: {format_money(self.money, self.fleet.price, unit)}"
        yield f"drawing measured on {machine_in_words(self.machine)}"


def plan_cells(spec: SweepSpec, only: Sequence[str] | None) -> list[Cell]:
    """The cells of `spec` for counting; their hashes stand for nothing. Raises SpecError as `build_cells`, and for a name in `only` that is no cell."""
    hashes = {"real": "real", "maps": "maps"}
    hashes |= {row: f"{spec.model_of(row)} {grid.checkpoint}" for row, grid in spec.models.items()}
    hashes |= {name: name for c in spec.cells.values() if c.dataset for name in [imported_name(c.dataset)]}
    cells = build_cells(spec, hashes)
    return choose_cells(cells, only)


def price_sweep(
    spec: SweepSpec,
    cells: Sequence[Cell],
    throughput: Throughput,
    fleet: Fleet,
    out: Path,
    footprint: Footprint = DOCUMENTED,
) -> SweepCost:
    """The whole bill of `cells`, as if nothing were done yet.

    Args:
        fleet: one GPU, or the cores of one process.
        out: the sweep's folder, whose finished stages tell how long trainings take; it need not be there.

    Raises SpecError for a model that the benchmark did not measure.
    """
    stages = in_order([s for c in cells for s in c.stages])
    drawn = [s for s in stages if s.kind == "data" and s.config["kind"] in DRAWN_KINDS]
    parts = list(_drawing(drawn, throughput, fleet, footprint))
    for kind, name in TRAININGS.items():
        of_kind = [s for s in stages if s.kind == kind]
        if of_kind:
            parts.append(_training(name, of_kind, spec, fleet, read_done(out, kind)))
    return SweepCost(sum(s.config["kind"] == "synthetic" for s in drawn), parts, fleet, throughput.machine)


def _drawing(drawn: Sequence[Stage], throughput: Throughput, fleet: Fleet, footprint: Footprint) -> Iterator[Part]:
    """A part a model, and one for what needs no network."""
    models = dict.fromkeys(str(s.config["model"]) for s in drawn if s.config["kind"] == "synthetic")
    for model in models:
        plans = [
            plan_dataset(int(s.config["count"] or 1), model, int(s.config["nfe"] or 1), fleet, throughput, footprint)
            for s in drawn
            if s.config.get("model") == model
        ]
        bases = ", ".join(dict.fromkeys(p.basis for p in plans))
        yield Part(f"datasets of {model}", len(plans), sum(p.hours for p in plans), sum(p.bytes for p in plans), bases)
    others = [s for s in drawn if s.config["kind"] != "synthetic"]
    if others:
        images = sum(int(s.config["count"] or 1) for s in others)
        seconds = images * _RENDERING_SECONDS / fleet.each
        yield Part(
            "datasets without a network", len(others), seconds / 3600, images * footprint.image_bytes, "a rough figure"
        )


def _training(name: str, stages: Sequence[Stage], spec: SweepSpec, fleet: Fleet, done: Sequence[Done]) -> Part:
    """Stages of one kind: at the pace of those of the sweep that have ended, whose settings may be others, else roughly."""
    guesses = [_guess(s, spec, fleet) for s in stages]
    hours, disk = sum(g[0] for g in guesses) / 3600, sum(g[1] for g in guesses)
    if not done:
        return Part(name, len(stages), hours, disk, "a guess: none of this sweep has ended yet")
    usual = fmean(g[0] for g in guesses)
    # Of an earlier version, or of a trainer that is not there any more, as if it were one of those to come.
    guessed = [_guess_done(record, stages[0].kind, spec, fleet) or usual for record in done]
    pace = sum(record.seconds or 0.0 for record in done) / sum(guessed)
    return Part(name, len(stages), hours * pace, disk, f"as {len(done)} of this sweep took")


def _guess_done(record: Done, kind: StageKind, spec: SweepSpec, fleet: Fleet) -> float | None:
    """Seconds that a stage which has ended would have been guessed to take; None where its record does not tell enough."""
    try:
        return _guess(Stage(kind, record.config), spec, fleet)[0]
    except (EchoSynthError, KeyError):
        return None


def _guess(stage: Stage, spec: SweepSpec, fleet: Fleet) -> tuple[float, float]:
    """Seconds and bytes of a stage that trains, predicts or evaluates, on one GPU or the cores of one process."""
    device = "cuda" if fleet.kind == "gpu" else "cpu"
    cores = _CORES / fleet.each if fleet.kind == "cpu" else 1.0  # seconds are those of two cores
    if stage.kind == "segmenter":
        estimate = estimate_segmenter(spec, stage, device)
        return estimate.seconds * cores, estimate.disk_bytes
    if stage.kind == "classifier":
        faster = GPU_FACTOR if device == "cuda" else 1.0
        return classifier_images(spec, stage) * _CLASSIFIER_SECONDS / faster * cores, _CLASSIFIER_BYTES
    return _HELD_OUT_SECONDS * cores, 5e6
