"""data_specs as validated objects: the one place where its files are read.

Every unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_args, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from echo_synth.errors import SpecError
from echo_synth.yaml_file import Lines, read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
SIZES = ("tiny", "small", "base", "paper")
DIFFUSION_MODELS = ("sdm", "ve", "vp", "edm", "edm-l128", "edm-l64")
_MOST_ERRORS = 1000
VAE_MODELS = ("gamma-vae-64", "gamma-vae-128")


class Strict(BaseModel):
    """Immutable, and closed: a key that is not declared is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CfgField(Strict):
    """One field of an Info_*.cfg: a number from `low` to `high`, or a text that is one of `values`."""

    type: Literal["int", "float", "str"]
    values: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    doc: str = ""


class CamusSpec(Strict):
    """CAMUS's file layout, both releases."""

    views: tuple[str, ...]
    phases: tuple[str, ...]
    patient_pattern: str
    database_folders: tuple[str, ...]
    split_folders: tuple[str, ...]
    split_files: dict[Literal["train", "val", "test"], str]
    image_name: str
    mask_suffix: str
    file_endings: tuple[str, ...]
    cfg_name: str
    cfg_fields: dict[str, CfgField]


class Tissue(Strict):
    name: str
    nnunet: int
    colour: tuple[int, int, int]


class LabelSpec(Strict):
    """Tissue ids, nnU-Net labels and measured structures."""

    tissues: dict[int, Tissue]
    nnunet_labels: dict[str, int]
    structures: dict[str, tuple[int, ...]]
    semantic_classes: int


class AnatomyBounds(Strict):
    """What a deformation may do to a heart, against the mask that it started from."""

    stretch: float = Field(gt=1, description="factor by which a length inside the heart grows or shrinks at most")
    solidity: float = Field(ge=0, le=1, description="share of the cavity's solidity that is left at least")
    wall: float = Field(ge=0, le=1, description="share of the wall's thickness at its thin places left at least")
    valve_deg: float = Field(ge=0, description="most that the valve's angle to the long axis changes, degrees")
    clipped: float = Field(ge=0, le=1, description="most of the cavity's area that leaves the sector")
    atrium: float = Field(0, ge=0, le=1, description="share of the atrium's solidity that is left at least")
    both_ways: bool = Field(
        False,
        description="a draw must keep these bounds with 1 / scale as well, so that hearts stay as large on average",
    )


class EfBalance(Strict):
    """Classes of ejection fraction that get equally many maps."""

    class_width: float = Field(gt=0, le=100, description="% of EF")
    most: float = Field(ge=1, description="most maps of a mask, in multiples of `repeats`")


class MapSpec(Strict):
    """How condition maps are drawn; units in data_specs/presets/maps. What has a default is the paper's way."""

    repeats: int = Field(ge=1)
    rotation_deg: float = Field(ge=0, le=180)
    shift_vertical: float = Field(ge=0, le=1)
    scale: tuple[Annotated[float, Field(gt=0, le=10)], Annotated[float, Field(gt=0, le=10)]]
    scale_law: Literal["uniform", "log-uniform"] = "uniform"
    shear_deg: float = Field(ge=0, lt=90)
    elastic_control_points: int = Field(ge=2, le=256)
    elastic_locked_borders: int = Field(ge=0)
    elastic_max_px: float = Field(ge=0)
    elastic_min_jacobian: float = Field(lt=1)
    share_deformation: bool = Field(default=False, description="ED and ES of a patient's view move as one")
    measure_ef: bool = Field(default=False, description="columns ef and source_ef of the index")
    ef_balance: EfBalance | None = None
    anatomy: AnatomyBounds | None = None
    beyond_sector: bool = Field(default=False, description="labels keep the anatomy that lies outside the sector")


class VaeSize(Strict):
    channels: tuple[int, ...]
    blocks: int = Field(ge=1)
    norm_groups: int
    level_attention: bool = Field(description="self-attention after the blocks of the last level")
    mid_attention: bool = Field(description="self-attention in the bottleneck")
    subpixel: int = Field(default=1, ge=1, description="side of the square of pixels that are channels of one")


class UNetSize(Strict):
    channels: int
    channel_mult: tuple[int, ...]
    blocks: int = Field(ge=1)
    attention: tuple[int, ...] = Field(description="resolutions with self-attention, px")
    dropout: float = Field(ge=0, lt=1)
    spade_hidden: int = Field(description="channels between the label map and its γ and β")


class VaeLossWeights(Strict):
    reconstruction: float = 10.0
    perceptual: float = 1e-3
    latent: float = 1e-2
    kl: float = 1e-3


Optimizer = Literal["adamw", "adam", "sgd", "muon"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)


class TrainingSpec(Strict):
    """How long and how a model trains. Lengths are counted in images, as the paper does."""

    images: int = Field(gt=0)
    batch: int = Field(gt=0, description="global batch, over all processes and accumulation steps")
    optimizer: Optimizer
    lr: float = Field(gt=0, allow_inf_nan=False)
    clip_norm: float = Field(gt=0)
    ema_std: float = Field(ge=0, description="0 keeps the raw weights")
    ema_snapshots: int = Field(default=0, ge=0, description="snapshots kept for a choice of the average afterwards")
    lr_decay: float = Field(default=0.0, ge=0, le=1, description="last share of the training in which lr falls to 0")
    stratified: bool = Field(default=False, description="noise levels of a batch spread evenly, not drawn one by one")
    map_loss: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of how well a reader sees the map in denoised fields",
    )
    warmup_images: int = 0
    decoder_finish: int = Field(default=0, ge=0, description="images on which a VAE's decoder is tuned to E[z]")
    weights: VaeLossWeights = VaeLossWeights()
    perceptual: Literal["none", "lpips-vgg", "lpips-alex", "radimagenet", "efflite0"] = "none"


class VaeSpec(Strict):
    kind: Literal["vae"]
    title: str
    resolution: int
    latent_resolution: int
    alpha_prior: float = Field(gt=0)
    beta_prior: float = Field(gt=0)
    sizes: dict[str, VaeSize]
    training: TrainingSpec
    size_training: dict[str, dict[str, object]] = {}


class Conditions(Strict):
    """How label maps reach a diffusion network; the defaults are the paper's."""

    soft_maps: bool = Field(default=False, description="shares of tissues in each cell, not nearest neighbours")
    phase: bool = Field(default=False, description="classes know the phase beside the view: 20, not 10")
    map_input: bool = Field(default=False, description="the map enters beside the noisy image too")


class DiffusionSpec(Strict):
    kind: Literal["diffusion"]
    title: str
    dataset_name: str
    resolution: int
    precond: Literal["edm", "ve", "vp", "iddpm"]
    precond_arguments: dict[str, int | float] = Field(
        default={}, description="of the formulation where not as published, such as EDM's p_mean and p_std"
    )
    network: Literal["adm", "ddpmpp", "ncsnpp"]
    vae: str | None
    solvers: dict[int, str] = Field(default={}, description="nearest solver by NFE, as study-solvers found it")
    sizes: dict[str, UNetSize]
    training: TrainingSpec
    size_training: dict[str, dict[str, object]] = {}
    size_conditions: dict[str, Conditions] = Field(default={}, description="where not the paper's")


ModelSpec = Annotated[VaeSpec | DiffusionSpec, Field(discriminator="kind")]


def root() -> Path:
    """Folder of data_specs, in a checkout and in an installed wheel alike."""
    import data_specs

    return Path(data_specs.__file__).parent


def _known_keys(model: object, location: tuple[int | str, ...]) -> list[str]:
    """Field names declared at `location` inside `model`, as far as they can be followed."""
    for part in location:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        field = model.model_fields.get(str(part))
        if field is None:  # the tag of a discriminated union, or the unknown key itself
            continue
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        models = [a for a in inner if issubclass(a, BaseModel)]
        model = models[0] if models else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _explain(error: ErrorDetails, model: object, source: str, lines: Lines | None = None) -> str:
    location = error["loc"]
    if lines:
        source = f"{source}, line {lines.find(location)}"
        location = (*lines.present(location[:-1]), *location[-1:])
    where = f"{'.'.join(str(p) for p in location):.200}"
    if error["type"] != "extra_forbidden":
        given = error["input"]
        shown = f"{given!r:.60}" if isinstance(given, (str, int, float, bool, type(None))) else type(given).__name__
        return f"{source}: {where or 'the file'}: {error['msg']} (found {shown})"
    known = _known_keys(model, error["loc"])
    near = difflib.get_close_matches(f"{error['loc'][-1]:.200}", known, n=1, cutoff=0.0)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{source}: unknown key '{where}'{hint}"


def first_error(e: ValidationError) -> ErrorDetails:
    """The first of what is wrong, a key that is unknown before others: it may be the one that seems to be missing.

    Of very many, their number alone: to list them takes minutes and gigabytes.
    """
    count = e.error_count()
    if count > _MOST_ERRORS:
        return {"type": "too_many", "loc": ("content",), "msg": "is none of ours", "input": f"{count} wrong values"}
    errors = e.errors(include_url=False)
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


def validate(model: type[T], data: object, source: str, lines: Lines | None = None) -> T:
    """`data` as a `model`. Raises SpecError that names `source`, the line if given, the key and the nearest known one."""
    return _validated(TypeAdapter(model), model, data, source, lines)


def _validated(adapter: TypeAdapter[T], model: object, data: object, source: str, lines: Lines | None = None) -> T:
    try:
        return adapter.validate_python(data)
    except ValidationError as e:
        raise SpecError(_explain(first_error(e), model, source, lines)) from None


def load(relative: str, model: type[T]) -> T:
    """Read and validate one YAML file below data_specs."""
    return validate(model, read_yaml(root() / relative), f"data_specs/{relative}")


@cache
def camus() -> CamusSpec:
    """CAMUS's layout."""
    return load("camus.yaml", CamusSpec)


@cache
def labels() -> LabelSpec:
    """Tissues, labels and structures."""
    return load("labels.yaml", LabelSpec)


def maps(recipe: str = "paper") -> MapSpec:
    """How condition maps are drawn: a preset's name, or a YAML file with the same keys.

    Raises SpecError that names --recipe where there is neither.
    """
    folder = root() / "presets/maps"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if recipe in known:
        return load(f"presets/maps/{recipe}.yaml", MapSpec)
    if not Path(recipe).is_file():
        raise SpecError(f"--recipe {recipe}: expected {', '.join(known)}, or a YAML file with the keys of one of them")
    return validate(MapSpec, read_yaml(Path(recipe)), recipe)


@cache
def model(name: str) -> VaeSpec | DiffusionSpec:
    """Preset of one model. Raises SpecError that names the nearest known model."""
    _check_known(name, sorted(p.stem for p in (root() / "presets/models").glob("*.yaml")))
    relative = f"presets/models/{name}.yaml"
    data = read_yaml(root() / relative)
    kind = VaeSpec if isinstance(data, dict) and data.get("kind") == "vae" else DiffusionSpec
    adapter: TypeAdapter[VaeSpec | DiffusionSpec] = TypeAdapter(ModelSpec)
    return _validated(adapter, kind, data, f"data_specs/{relative}")


def _check_known(name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise SpecError(f"unknown model '{name}', did you mean '{near[0]}'? Known: {', '.join(known)}")


def diffusion_model(name: str) -> DiffusionSpec:
    """Preset of a diffusion model. Raises SpecError for anything else."""
    if name not in VAE_MODELS:
        _check_known(name, DIFFUSION_MODELS)
    spec = model(name)
    if not isinstance(spec, DiffusionSpec):
        raise SpecError(f"'{name}' is a VAE; expected one of {', '.join(DIFFUSION_MODELS)}")
    return spec


def vae_model(name: str) -> VaeSpec:
    """Preset of a Γ-VAE. Raises SpecError for anything else."""
    if name not in DIFFUSION_MODELS:
        _check_known(name, VAE_MODELS)
    spec = model(name)
    if not isinstance(spec, VaeSpec):
        raise SpecError(f"'{name}' is a diffusion model; expected one of {', '.join(VAE_MODELS)}")
    return spec


@overload
def size_of(spec: VaeSpec, size: str) -> VaeSize: ...
@overload
def size_of(spec: DiffusionSpec, size: str) -> UNetSize: ...
@overload
def size_of(spec: VaeSpec | DiffusionSpec, size: str) -> VaeSize | UNetSize: ...
def size_of(spec: VaeSpec | DiffusionSpec, size: str) -> VaeSize | UNetSize:
    """Network settings of one size. Raises SpecError for an unknown size."""
    if size not in spec.sizes:
        raise SpecError(f"unknown size '{size}'; {spec.title} has {', '.join(spec.sizes)}")
    return spec.sizes[size]


def training_of(spec: VaeSpec | DiffusionSpec, size: str, **overrides: object) -> TrainingSpec:
    """Training settings of one size, `overrides` (None means: keep the preset's) applied last.

    The preset's `decoder_finish` is at most a tenth of the images, so that a short training stays short.
    """
    merged = spec.training.model_dump() | spec.size_training.get(size, {})
    given = {k: v for k, v in overrides.items() if v is not None}
    training = validate(TrainingSpec, merged | given, f"training settings of {spec.title}, size {size}")
    if "decoder_finish" in given or training.decoder_finish <= training.images // 10:
        return training
    return training.model_copy(update={"decoder_finish": training.images // 10})


def conditions_of(spec: DiffusionSpec, size: str, **overrides: bool | None) -> Conditions:
    """How maps condition a model of one size, `overrides` (None means: keep the preset's) applied last."""
    chosen = spec.size_conditions.get(size, Conditions())
    return chosen.model_copy(update={k: v for k, v in overrides.items() if v is not None})


# The architectures of timm that may be built: a name that is not listed may read a file or an address.
ClassifierArchitecture = Literal["tf_efficientnetv2_s"]


class ClassifierSpec(Strict):
    """How the view classifier trains."""

    architecture: ClassifierArchitecture
    resolution: int
    epochs: int
    batch: int
    lr: float


@cache
def classifier() -> ClassifierSpec:
    """The paper's view classifier."""
    return load("presets/classifier.yaml", ClassifierSpec)
