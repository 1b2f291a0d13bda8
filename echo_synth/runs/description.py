"""model.json: all that is needed to build the network that a run's weights fit, as typed records.

Presets are resolved into plain numbers when a run starts: a later change of a preset does not
change an old run. A file with a key or value that these records do not know is refused, before
anything is built from it: sizes are bounded, architectures are listed, and nothing in it names a
file or an address.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar, overload

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser, build_network
from echo_synth.diffusion.preconditioning import build_precond, check_arguments
from echo_synth.errors import RunError
from echo_synth.runs.timm_library import load_timm
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import PosteriorFamily

Kind = Literal["vae", "diffusion", "classifier"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, Field(max_length=1000)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
# Twice what the largest preset has, or more: a file that asks for more is not one of ours. Sides of images
# no more than twice: a network of convolutions fits any, and works 256 times as long at 4096 px.
Pixels = Annotated[int, Field(ge=1, le=512)]
Width = Annotated[int, Field(ge=1, le=4096)]  # channels of a layer
Blocks = Annotated[int, Field(ge=1, le=16)]  # of a level
Channels = Annotated[int, Field(ge=1, le=16)]  # of latents
Levels = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
Probability = Annotated[float, Field(ge=0, lt=1)]
PriorParameter = Annotated[float, Field(gt=0, le=1e6)]


class _Record(BaseModel):
    """Immutable, and closed: a key that is not declared, a value of another type, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InitialWeights(_Record):
    """The run that a training started from: its model, the hash of its weights, the share of parameters they set."""

    model: Name
    weights: Hash
    share: float = Field(ge=0, le=1)


class Origin(_Record):
    """Where a model comes from.

    Attributes:
        trained_on: name of the dataset, or of the folder of images.
        init: what the training started from.
        imported_from: name of the file of other code that it was read from.
        ema_std, averaged_from: width of an average chosen after training, and the run whose snapshots were averaged.
    """

    trained_on: Text | None = None
    init: InitialWeights | None = None
    imported_from: Text | None = None
    ema_std: float | None = Field(default=None, gt=0, lt=1)
    averaged_from: Text | None = None


class _Description(Origin):
    """What every model.json holds."""

    kind: str
    model: Name
    size: Name

    def as_json(self) -> dict[str, Any]:
        """The content of model.json: what was set, in the order of the declarations, origin last."""
        data = self.model_dump(mode="json", exclude_unset=True)
        origin = {name: data.pop(name) for name in Origin.model_fields if name in data}
        return data | origin


class VaeNetwork(_Record):
    """Arguments of `GammaVAE`."""

    channels: Levels
    blocks: Blocks
    norm_groups: Width
    level_attention: bool
    mid_attention: bool
    alpha_prior: PriorParameter
    beta_prior: PriorParameter
    activation: Literal["silu", "none"]
    projection: bool = True
    posterior: PosteriorFamily = "gamma"
    subpixel: int = Field(default=1, ge=1, le=8)
    latent_channels: Channels = 1

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        odd = [c for c in self.channels if c % self.norm_groups]
        if odd:
            raise ValueError(f"{odd[0]} channels do not divide into {self.norm_groups} groups")
        return self


class VaeDescription(_Description):
    """A Γ-VAE, or its Gaussian twin. Grids in pixels: of the images and of their latents."""

    kind: Literal["vae"]
    model: Name
    size: Name
    resolution: Pixels
    latent_resolution: Pixels
    network: VaeNetwork
    decoder_finish: int = Field(default=0, ge=0, description="images on which the decoder was tuned to E[z] at the end")

    @model_validator(mode="after")
    def _grids_fit(self) -> Self:
        levels, side = len(self.network.channels), self.latent_resolution
        if side * self.network.subpixel << (levels - 1) != self.resolution:
            raise ValueError(f"{levels} levels do not make latents of {side} px of images of {self.resolution} px")
        return self


class UNetNetwork(_Record):
    """Fields of `UNetShape`."""

    resolution: Pixels
    classes: int
    channels: Width
    channel_mult: Levels
    blocks: Blocks
    attention: tuple[Pixels, ...] = Field(max_length=8)
    dropout: Probability
    spade_hidden: Width
    embedding_mult: int = Field(default=4, ge=1, le=64)
    out_channels: int = Field(default=1, ge=1, le=32)
    image_channels: Channels = 1
    map_input: bool = False
    soft_maps: bool = False

    @model_validator(mode="after")
    def _gives_what_it_gets(self) -> Self:
        if self.out_channels not in (self.image_channels, 2 * self.image_channels):
            raise ValueError(f"{self.image_channels} image channels in and {self.out_channels} out")
        return self

    @model_validator(mode="after")
    def _classes_are_known(self) -> Self:
        known = specs.labels().semantic_classes
        if self.classes not in (known, 2 * known):
            raise ValueError(f"{self.classes} semantic classes, expected {known}, or {2 * known} with the phase")
        if max(self.channel_mult) * self.channels > 8192:
            raise ValueError(f"a level of {max(self.channel_mult) * self.channels} channels, expected at most 8192")
        return self


class SongNetwork(_Record):
    """Arguments of `SongUNet` besides its shape, for architecture "song"."""

    embedding_type: Literal["positional", "fourier"]
    residual_input: bool
    noise_mult: int = Field(ge=1, le=16)
    taps: tuple[int | float, ...] = Field(min_length=2, max_length=8)


class Distillation(_Record):
    """What a run was distilled to, and from what.

    Attributes:
        method: the network maps a noisy field to the end of its trajectory.
        teacher: hash of the weights that were distilled.
        sigma_max: noise level σ that it draws from.
        renoise: level of a second evaluation.
    """

    method: Literal["consistency"]
    teacher: Hash
    sigma_max: float = Field(gt=0, le=1000)
    renoise: float = Field(gt=0, le=1000)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.renoise >= self.sigma_max:
            raise ValueError(f"renoise is {self.renoise:g}, expected less than sigma_max {self.sigma_max:g}")
        return self


class DiffusionDescription(_Description):
    """A denoiser: formulation, network, and the hash of the Γ-VAE whose latents it was trained on (None: pixels).

    One that was distilled is no denoiser any more, see `Distillation`.
    """

    kind: Literal["diffusion"]
    model: Name
    size: Name
    resolution: Pixels
    precond: Literal["edm", "ve", "vp", "iddpm"]
    precond_arguments: dict[str, int | float] = {}
    architecture: Literal["adm", "ddpmpp", "ncsnpp", "song"]
    network: UNetNetwork
    song: SongNetwork | None = None
    vae: Hash | None
    distilled: Distillation | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.network.resolution != self.resolution:
            raise ValueError(f"a network of {self.network.resolution} px in a model of {self.resolution} px")
        if (self.song is not None) != (self.architecture == "song"):
            raise ValueError(f"architecture {self.architecture} with{'' if self.song else 'out'} settings of 'song'")
        check_arguments(self.precond, self.precond_arguments)
        return self


class ClassifierNetwork(_Record):
    """Arguments of timm's architecture."""

    in_chans: Literal[1]
    num_classes: int = Field(ge=2, le=1000)
    drop_rate: Probability


class ClassifierDescription(_Description):
    """A view classifier: timm architecture, input side in pixels, class order."""

    kind: Literal["classifier"]
    model: Name
    size: Name
    architecture: specs.ClassifierArchitecture
    resolution: Pixels
    classes: tuple[Name, ...]
    network: ClassifierNetwork

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        if len(self.classes) != self.network.num_classes:
            raise ValueError(f"{len(self.classes)} classes, but a network with {self.network.num_classes}")
        return self


Description = VaeDescription | DiffusionDescription | ClassifierDescription
DescriptionT = TypeVar("DescriptionT", VaeDescription, DiffusionDescription, ClassifierDescription)
_KINDS: dict[Any, type[Description]] = {
    "vae": VaeDescription,
    "diffusion": DiffusionDescription,
    "classifier": ClassifierDescription,
}


def parse_description(data: Any, source: str) -> Description:
    """`data`, the JSON of `source`, as the description of its kind.

    Raises RunError that names `source`, the first wrong key, what was found there and what was expected.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        shown = f"kind {_brief(kind)}" if isinstance(data, dict) else f"holds {_brief(data)}"
        raise RunError(f"{source}: {shown}, expected a model of kind {', '.join(_KINDS)}, as echosynth writes them")
    try:
        # As JSON, because JSON's lists are these records' tuples and nothing else may be converted.
        return _KINDS[kind].model_validate_json(json.dumps(data), strict=True)
    except (ValidationError, ValueError, RecursionError) as e:
        raise RunError(f"{source}: {first_error(e)}; expected a model.json that echosynth wrote") from None


def first_error(e: Exception) -> str:
    """What is wrong, in a few words: the first key that a record refused, what was found there and what was expected."""
    if not isinstance(e, ValidationError):
        return str(e).splitlines()[0][:120]
    first = specs.first_error(e)
    place = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place:.60}'"
    if first["type"] == "missing":
        return f"key '{place:.60}' is missing"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{place:.60}: {message:.160}" if place else f"{message:.160}"
    return f"{place:.60}: {message:.160} (found {_brief(first['input'])})"


def _brief(value: Any) -> str:
    """A few characters of what was found; of a list or mapping its kind, since a repr may be long."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def describe_vae(
    name: str,
    size: str,
    posterior: PosteriorFamily = "gamma",
    prior: tuple[float, float] | None = None,
    latent_channels: int = 1,
) -> VaeDescription:
    """Description of a new Γ-VAE, or its Gaussian twin; `prior`: shape and rate, default the preset's."""
    spec = specs.vae_model(name)
    alpha, beta = prior or (spec.alpha_prior, spec.beta_prior)
    network = VaeNetwork(
        **specs.size_of(spec, size).model_dump(),
        alpha_prior=alpha,
        beta_prior=beta,
        activation="silu",
        posterior=posterior,
        latent_channels=latent_channels,
    )
    return VaeDescription(
        kind="vae",
        model=vae_name(name, posterior, latent_channels),
        size=size,
        resolution=spec.resolution,
        latent_resolution=spec.latent_resolution,
        network=network,
    )


def vae_name(name: str, posterior: PosteriorFamily, latent_channels: int = 1) -> str:
    """gamma-vae-64, gaussian-vae-64 for its twin, …-64-4ch with four channels, so that none is taken for another."""
    return name.replace("gamma", posterior) + (f"-{latent_channels}ch" if latent_channels > 1 else "")


def describe_diffusion(
    name: str, size: str, vae: str | None, conditions: specs.Conditions | None = None, channels: int = 1
) -> DiffusionDescription:
    """Description of a new diffusion model.

    Args:
        vae: hash of the weights whose latents it sees, or None for pixels.
        conditions: how label maps reach the network; None: as in the paper.
        channels: of that VAE's latents.
    """
    spec = specs.diffusion_model(name)
    asked = conditions or specs.Conditions()
    chosen: dict[str, Any] = {key: True for key in ("map_input", "soft_maps") if getattr(asked, key)}
    network = UNetNetwork(
        resolution=spec.resolution,
        classes=specs.labels().semantic_classes * (2 if asked.phase else 1),
        **specs.size_of(spec, size).model_dump(),
        out_channels=channels * (2 if spec.precond == "iddpm" else 1),
        image_channels=channels,
        **chosen,
    )
    return DiffusionDescription(
        kind="diffusion",
        model=name,
        size=size,
        resolution=spec.resolution,
        precond=spec.precond,
        precond_arguments=spec.precond_arguments,
        architecture=spec.network,
        network=network,
        vae=vae,
    )


def describe_classifier(
    architecture: specs.ClassifierArchitecture, resolution: int, classes: tuple[str, ...]
) -> ClassifierDescription:
    """Description of a new view classifier: timm architecture, one input channel, class order."""
    network = ClassifierNetwork(in_chans=1, num_classes=len(classes), drop_rate=0.2)
    return ClassifierDescription(
        kind="classifier",
        model="classifier",
        size="paper",
        architecture=architecture,
        resolution=resolution,
        classes=classes,
        network=network,
    )


@overload
def build_model(description: VaeDescription, seed: int = 0) -> GammaVAE: ...
@overload
def build_model(description: DiffusionDescription, seed: int = 0) -> Denoiser: ...
@overload
def build_model(description: Description, seed: int = 0) -> nn.Module: ...
def build_model(description: Description, seed: int = 0) -> nn.Module:
    """The network that a model.json describes, freshly initialised from `seed`; float32, on torch's default device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(description, VaeDescription):
            return GammaVAE(**description.network.model_dump())
        if isinstance(description, DiffusionDescription):
            return _build_denoiser(description)
        # `pretrained` is off by default; said here because with it timm reads files and addresses.
        make: Callable[..., nn.Module] = load_timm().create_model
        return make(description.architecture, pretrained=False, **description.network.model_dump())


def _build_denoiser(description: DiffusionDescription) -> Denoiser:
    song = description.song.model_dump() if description.song else None
    network = build_network(description.architecture, song, **description.network.model_dump())
    return Denoiser(network, build_precond(description.precond, **description.precond_arguments))
