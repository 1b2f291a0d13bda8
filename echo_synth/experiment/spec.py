"""SPEC.yaml of `echosynth sweep`, validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from echo_synth import specs
from echo_synth.errors import SpecError
from echo_synth.specs import Strict
from echo_synth.yaml_file import YamlValue, read_yaml

# What decides a cell beside the grid, by its kind, besides the epochs of its segmenter.
SETTINGS_OF: Mapping[str, tuple[str, ...]] = {
    "real": ("patients",),
    "bmode": ("count",),
    "noise": ("count",),
    "mix": ("base", "share", "patients"),
    "filtered": ("base", "low_agreement"),
    "pretrain": ("base", "patients"),
    "imported": ("dataset",),
}
# Fingerprints of a sweep's inputs have these names beside those of the rows.
RESERVED_ROWS = ("real", "maps", "trainer")


def _printable(path: Path) -> Path:
    if not str(path).isprintable():
        raise ValueError("expected a path without control characters")
    return path


def _solver(name: str) -> str:
    if name == "auto":
        return name
    from echo_synth.sampling import SOLVERS  # loads torch, which a mistake elsewhere need not wait for

    if name not in SOLVERS:
        raise ValueError(f"expected auto or one of {', '.join(SOLVERS)}")
    return name


def _different(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError("expected each number once")
    return values


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Folder = Annotated[Path, AfterValidator(_printable)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_different)]
Evaluations = Annotated[tuple[Annotated[int, Field(ge=1, le=10_000)], ...], AfterValidator(_different)]


class SegmenterSettings(Strict):
    """nnU-Net of every cell; None keeps the trainer's own number."""

    trainer: str = "nnUNetTrainerEchoSynth"
    epochs: Count | None = None
    iterations: Count | None = None
    seed: Seed | None = Field(default=None, description="makes the training repeatable")
    seeds: Seeds = Field(default=(), description="train once with each, crossed with the seeds of the images")


class ClassifierSettings(Strict):
    """View classifier of every cell; None keeps the preset's number."""

    epochs: Count | None = None
    resolution: int | None = Field(default=None, ge=32, le=512)
    lr: float | None = Field(default=None, gt=0, le=100, allow_inf_nan=False)


class QualitySettings(Strict):
    """`echosynth quality` on the images of every cell that are drawn or imported, against the real ones."""

    count: int = Field(default=200, ge=2, le=1_000_000, description="images that are judged, spread evenly")
    perceptual: Literal["efflite0", "none"] | None = Field(
        default=None, description="network that measures diversity; None: efflite0 where its package is installed"
    )
    rate: float = Field(
        default=0.05, ge=0.001, le=0.5, description="share of unseen real images that would count as near copies"
    )


class ModelGrid(Strict):
    """One row of the grid, by default of the model that it is named after."""

    model: str | None = Field(default=None, description="for a second row of one model; None: the row's name")
    checkpoint: Folder | None = Field(
        default=None, description="run folder, relative to ECHOSYNTH_HOME; None: the newest"
    )
    nfe: Evaluations = Field(min_length=1)
    solver: Annotated[str, AfterValidator(_solver)] = "auto"
    sigma_max: float | None = Field(
        default=None, ge=1, le=1000, description="σ to start from, as --sigma-max of generate; None: the model's"
    )
    count: Count | None = Field(default=None, description="images of each dataset; None: the sweep's")


class ExtraCell(Strict):
    """A cell beside the grid: `base` names a cell of the grid where one is needed."""

    kind: Literal["real", "bmode", "noise", "mix", "filtered", "pretrain", "imported"]
    dataset: int | None = Field(default=None, ge=1, le=999, description="imported: id of the dataset of import-images")
    base: str | None = Field(default=None, description="mix, filtered and pretrain: the cell whose images are used")
    epochs: Count | None = Field(
        default=None, description="of this cell's segmenter (pretrain: after it); None: the sweep's"
    )
    share: float | None = Field(
        default=None, gt=0, lt=1, description="mix: part of the training images that is synthetic; None: half"
    )
    patients: Count | None = Field(
        default=None, description="real, mix and pretrain: real training patients, None for all"
    )
    count: Count | None = Field(default=None, description="bmode and noise: images; None: as many as the grid's")
    low_agreement: Share = Field(
        default=0.7, description="filtered: images below this Dice with their map are left out, and near copies"
    )


class SweepSpec(Strict):
    """The whole experiment.

    Attributes:
        real: id of the converted CAMUS dataset; its test patients judge every cell.
        maps: folder of condition maps, relative to ECHOSYNTH_HOME; None: the newest.
        count: images of each synthetic dataset.
        seeds: of the images: a dataset is drawn with each.
        reference: the cell that others are compared with, pair by pair.
        compare: further pairs of cells by name, [cell, baseline]; p-values are corrected over the pairs, each structure
            and metric by itself. A name without its seeds stands for all repeats: edm-l64_nfe20 for edm-l64_nfe20_seed0, ….
        quality: judge how the images of each cell look, and correlate that with what they teach; None: do not.
        repeats: of the bootstrap.
        precision: in which images are drawn, as `generate --precision`. Part of what a dataset is.
        compile: draw through torch.compile, whose rounding differs; part of what a dataset is as well.
    """

    real: int = Field(ge=1, le=999)
    maps: Folder | None = None
    count: Count
    batch: int = Field(default=8, ge=1, le=65_536)
    seeds: Seeds = Field(default=(0,), min_length=1)
    models: dict[Name, ModelGrid] = Field(default={})
    cells: dict[Name, ExtraCell] = Field(default={})
    reference: str | None = "real"
    compare: dict[Name, tuple[str, str]] = Field(default={})
    segmenter: SegmenterSettings | None = SegmenterSettings()
    classifier: ClassifierSettings | None = ClassifierSettings()
    quality: QualitySettings | None = None
    repeats: int = Field(default=1000, ge=10, le=100_000)
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    compile: bool = False

    def model_of(self, row: str) -> str:
        """Model of a row of the grid."""
        return self.models[row].model or row

    def segmenter_seeds(self) -> tuple[int | None, ...]:
        """One for each training of a segmenter; None where it is not repeatable."""
        if self.segmenter is None:
            return (None,)
        return self.segmenter.seeds or (self.segmenter.seed,)


def read_sweep(path: Path) -> SweepSpec:
    """The spec in `path`, or the preset of that name (without a folder) in data_specs/presets/sweeps.

    Raises SpecError for a missing file, an unknown key, value or model, or a row with a reserved name.
    """
    file = path if path.exists() and not path.is_dir() else _preset(path)
    content = read_yaml(file)
    _check_names(content, str(file))
    spec = specs.validate(SweepSpec, content, str(file))
    assert isinstance(spec, SweepSpec)
    _check_numbers(content, str(file))
    if not spec.models and not spec.cells:
        raise SpecError(f"{file}: models, cells: both are empty; expected at least one cell")
    for name in spec.models:
        specs.diffusion_model(spec.model_of(name))
        if name in RESERVED_ROWS:
            raise SpecError(f"{file}: models.{name}: the name is taken; choose another for the row")
    for name, cell in spec.cells.items():
        _check_used(cell, f"{file}: cells.{name}")
        if (cell.kind == "imported") != (cell.dataset is not None):
            raise SpecError(
                f"{file}: cells.{name}.dataset: {cell.dataset}; expected an id with kind imported, none with others"
            )
    if spec.segmenter and spec.segmenter.seeds and spec.segmenter.seed is not None:
        raise SpecError(f"{file}: segmenter: seed and seeds; expected one of them")
    return spec


def _check_names(content: YamlValue, place: str) -> None:
    """Raise SpecError for a name that YAML reads as something else: no is false, 2024-01-01 a date, 1 a number."""
    for name, value in content.items() if isinstance(content, dict) else ():
        if not isinstance(name, str):
            raise SpecError(
                f"{place}: the name {name} is read as {type(name).__name__}; expected text: put it between quotes"
            )
        _check_names(value, f"{place}{'.' if ': ' in place else ': '}{name}")


def _check_numbers(content: YamlValue, place: str, name: str = "") -> None:
    """Raise SpecError for true or false where a number is expected: YAML reads yes, no, on and off so, and they would count as 1 and 0."""
    if isinstance(content, bool) and name != "compile":
        raise SpecError(f"{place}: {str(content).lower()} (also written yes, no, on, off); expected a number")
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for part, value in parts:
        _check_numbers(value, f"{place}{'.' if name else ': '}{part}", str(part))


def _check_used(cell: ExtraCell, place: str) -> None:
    """Raise SpecError for a setting that cells of this kind do not have: it would change nothing."""
    settings = ("kind", "epochs", *SETTINGS_OF[cell.kind])
    unused = sorted(cell.model_fields_set - {"dataset"} - set(settings))
    if unused and getattr(cell, unused[0]) is not None:
        raise SpecError(
            f"{place}.{unused[0]}: {getattr(cell, unused[0])}; a cell of kind {cell.kind} has none, but {', '.join(settings)}"
        )


def _preset(path: Path) -> Path:
    folder = specs.root() / "presets/sweeps"
    file = folder / f"{path.name.removesuffix('.yaml')}.yaml"
    if len(path.parts) != 1 or not file.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise SpecError(f"{path}: no such file, and no preset of that name; presets: {known}")
    return file
