"""SPEC.yaml of `echosynth sweep`, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from echo_synth import specs
from echo_synth.errors import SpecError
from echo_synth.specs import Strict
from echo_synth.yaml_file import read_yaml

RESERVED_ROWS = (
    "real",
    "maps",
    "trainer",
)  # fingerprints of a sweep's inputs have these names beside those of the rows


class SegmenterSettings(Strict):
    """nnU-Net of every cell; None keeps the trainer's own number."""

    trainer: str = "nnUNetTrainerEchoSynth"
    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = Field(default=None, description="makes the training repeatable")


class ClassifierSettings(Strict):
    """View classifier of every cell; None keeps the preset's number."""

    epochs: int | None = None
    resolution: int | None = None
    lr: float | None = None


class ModelGrid(Strict):
    """One row of the grid, by default of the model that it is named after."""

    model: str | None = Field(default=None, description="for a second row of one model; None: the row's name")
    checkpoint: Path | None = Field(
        default=None, description="run folder, relative to ECHOSYNTH_HOME; None: the newest"
    )
    nfe: tuple[int, ...]
    solver: str = "auto"
    count: int | None = Field(default=None, gt=0, description="images of each dataset; None: the sweep's")


class ExtraCell(Strict):
    """A cell beside the grid: `base` names a cell of the grid where one is needed."""

    kind: Literal["real", "noise", "mix", "filtered"]
    base: str | None = None
    share: float | None = Field(default=None, description="mix: part of the training images that is synthetic")
    patients: int | None = Field(default=None, description="real and mix: real training patients, None for all")
    count: int | None = Field(default=None, description="noise: images; None: as many as the grid's")
    low_agreement: float = Field(
        default=0.7, description="filtered: images below this Dice with their map are left out"
    )


class SweepSpec(Strict):
    """The whole experiment.

    Attributes:
        real: id of the converted CAMUS dataset; its test patients judge every cell.
        maps: folder of condition maps, relative to ECHOSYNTH_HOME; None: the newest.
        count: images of each synthetic dataset.
        reference: the cell that others are compared with, pair by pair.
        compare: further pairs of cells by name, [cell, baseline]; p-values are corrected over the pairs, each structure and metric by itself.
    """

    real: int
    maps: Path | None = None
    count: int = Field(gt=0)
    batch: int = 8
    seeds: tuple[int, ...] = (0,)
    models: dict[str, ModelGrid] = Field(default={})
    cells: dict[str, ExtraCell] = Field(default={})
    reference: str | None = "real"
    compare: dict[str, tuple[str, str]] = Field(default={})
    segmenter: SegmenterSettings | None = SegmenterSettings()
    classifier: ClassifierSettings | None = ClassifierSettings()
    repeats: int = 1000

    def model_of(self, row: str) -> str:
        """Model of a row of the grid."""
        return self.models[row].model or row


def read_sweep(path: Path) -> SweepSpec:
    """The spec in `path`, or the preset of that name in data_specs/presets/sweeps.

    Raises SpecError for a missing file, an unknown key, value or model, or a row with a reserved name.
    """
    preset = specs.root() / "presets/sweeps" / f"{path.name.removesuffix('.yaml')}.yaml"
    file = path if path.is_file() else preset
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in preset.parent.glob("*.yaml")))
        raise SpecError(f"{path}: no such file, and no preset of that name; presets: {known}")
    spec = specs.validate(SweepSpec, read_yaml(file), str(file))
    for name in spec.models:
        specs.diffusion_model(spec.model_of(name))
        if name in RESERVED_ROWS:
            raise SpecError(f"{file}: models.{name}: the name is taken; choose another for the row")
    return spec
