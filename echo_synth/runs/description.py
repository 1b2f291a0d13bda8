"""model.json: all that is needed to build the network that a run's weights fit, as typed records.

Presets are resolved into plain numbers when a run starts: a later change of a preset does not
change an old run. A file with a key or value that these records do not know is refused.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar, overload

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser, build_network
from echo_synth.diffusion.preconditioning import build_precond
from echo_synth.errors import RunError
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import PosteriorFamily

Kind = Literal["vae", "diffusion", "classifier"]


class _Record(BaseModel):
    """Immutable, and closed: a key that is not declared, a value of another type, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InitialWeights(_Record):
    """The run that a training started from: its model, the hash of its weights, the share of parameters they set."""

    model: str
    weights: str
    share: float


class Origin(_Record):
    """Where a model comes from.

    Attributes:
        trained_on: name of the dataset, or of the folder of images.
        init: what the training started from.
        imported_from: name of the file of other code that it was read from.
        ema_std, averaged_from: width of an average chosen after training, and the run whose snapshots were averaged.
    """

    trained_on: str | None = None
    init: InitialWeights | None = None
    imported_from: str | None = None
    ema_std: float | None = None
    averaged_from: str | None = None


class _Description(Origin):
    """What every model.json holds."""

    kind: str
    model: str
    size: str

    def as_json(self) -> dict[str, Any]:
        """The content of model.json: what was set, in the order of the declarations, origin last."""
        data = self.model_dump(mode="json", exclude_unset=True)
        origin = {name: data.pop(name) for name in Origin.model_fields if name in data}
        return data | origin


class VaeNetwork(_Record):
    """Arguments of `GammaVAE`."""

    channels: tuple[int, ...]
    blocks: int
    norm_groups: int
    level_attention: bool
    mid_attention: bool
    alpha_prior: float
    beta_prior: float
    activation: Literal["silu", "none"]
    projection: bool = True
    posterior: PosteriorFamily = "gamma"


class VaeDescription(_Description):
    """A Γ-VAE, or its Gaussian twin. Grids in pixels: of the images and of their latents."""

    kind: Literal["vae"]
    model: str
    size: str
    resolution: int
    latent_resolution: int
    network: VaeNetwork


class UNetNetwork(_Record):
    """Fields of `UNetShape`."""

    resolution: int
    classes: int
    channels: int
    channel_mult: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    dropout: float
    spade_hidden: int
    embedding_mult: int = 4
    out_channels: int = 1


class SongNetwork(_Record):
    """Arguments of `SongUNet` besides its shape, for architecture "song"."""

    embedding_type: Literal["positional", "fourier"]
    residual_input: bool
    noise_mult: int
    taps: tuple[int | float, ...]


class DiffusionDescription(_Description):
    """A denoiser: formulation, network, and the hash of the Γ-VAE whose latents it was trained on (None: pixels)."""

    kind: Literal["diffusion"]
    model: str
    size: str
    resolution: int
    precond: Literal["edm", "ve", "vp", "iddpm"]
    precond_arguments: dict[str, int | float] = {}
    architecture: Literal["adm", "ddpmpp", "ncsnpp", "song"]
    network: UNetNetwork
    song: SongNetwork | None = None
    vae: str | None


class ClassifierNetwork(_Record):
    """Arguments of timm's architecture."""

    in_chans: int
    num_classes: int
    drop_rate: float


class ClassifierDescription(_Description):
    """A view classifier: timm architecture, input side in pixels, class order."""

    kind: Literal["classifier"]
    model: str
    size: str
    architecture: str
    resolution: int
    classes: tuple[str, ...]
    network: ClassifierNetwork


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
        found = f"kind {kind!r:.60}" if isinstance(data, dict) else f"{data!r:.60}"
        raise RunError(f"{source}: {found}, expected a model of kind {', '.join(_KINDS)}, as echosynth writes them")
    try:
        # As JSON, because JSON's lists are these records' tuples and nothing else may be converted.
        return _KINDS[kind].model_validate_json(json.dumps(data), strict=True)
    except (ValidationError, ValueError, RecursionError) as e:
        raise RunError(f"{source}: {_first_error(e)}; expected a model.json that echosynth wrote") from None


def _first_error(e: Exception) -> str:
    if not isinstance(e, ValidationError):
        return str(e).splitlines()[0][:120]
    first = e.errors(include_url=False)[0]
    place = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place:.60}'"
    return f"{place:.60}: {first['msg']} (found {first['input']!r:.60})"


def describe_vae(
    name: str, size: str, posterior: PosteriorFamily = "gamma", prior: tuple[float, float] | None = None
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
    )
    return VaeDescription(
        kind="vae",
        model=vae_name(name, posterior),
        size=size,
        resolution=spec.resolution,
        latent_resolution=spec.latent_resolution,
        network=network,
    )


def vae_name(name: str, posterior: PosteriorFamily) -> str:
    """gamma-vae-64, or gaussian-vae-64 for its twin, so that neither is taken for the other."""
    return name.replace("gamma", posterior)


def describe_diffusion(name: str, size: str, vae: str | None) -> DiffusionDescription:
    """Description of a new diffusion model; `vae` is the hash of the weights whose latents it sees."""
    spec = specs.diffusion_model(name)
    network = UNetNetwork(
        resolution=spec.resolution,
        classes=specs.labels().semantic_classes,
        **specs.size_of(spec, size).model_dump(),
        out_channels=2 if spec.precond == "iddpm" else 1,
    )
    return DiffusionDescription(
        kind="diffusion",
        model=name,
        size=size,
        resolution=spec.resolution,
        precond=spec.precond,
        architecture=spec.network,
        network=network,
        vae=vae,
    )


def describe_classifier(architecture: str, resolution: int, classes: tuple[str, ...]) -> ClassifierDescription:
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
        import timm

        return timm.create_model(description.architecture, **description.network.model_dump())


def _build_denoiser(description: DiffusionDescription) -> Denoiser:
    song = description.song.model_dump() if description.song else None
    network = build_network(description.architecture, song, **description.network.model_dump())
    return Denoiser(network, build_precond(description.precond, **description.precond_arguments))
