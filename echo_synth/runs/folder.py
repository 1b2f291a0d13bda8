"""A run folder: its files, and how commands find one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from torch import nn

from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.errors import RunError
from echo_synth.files import read_json
from echo_synth.runs.description import (
    ClassifierDescription,
    Description,
    DiffusionDescription,
    Kind,
    VaeDescription,
    parse_description,
)
from echo_synth.runs.loading import load_model
from echo_synth.runs.tensors import load_tensors
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.texture import CONTRASTS, LEVELS, POLAR, Texture

WEIGHTS, DESCRIPTION, STATE = "model.safetensors", "model.json", "state.safetensors"
AS_TRAINED = "as_trained.safetensors"  # weights of a VAE before its decoder was finished
TEXTURE = "texture.safetensors"  # grain that a VAE's reconstructions lack
FINISH = "finish"  # folder of that last phase
AVERAGES = "averages"  # folder of the snapshots that average-weights combines
READER = "map_reader.safetensors"  # what reads the map in denoised fields, of trainings with --map-loss
STUDY_FILES = (
    "solvers.json",
    "solvers.csv",
    "solvers.png",
    "schedules.csv",
)  # of study-solvers, of the weights that were there
FORMER = "former"  # folder of the finished run that an unfinished one is to replace


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run folder with its description."""

    folder: Path
    description: Description

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def hash(self) -> str:
        """First 16 hex digits of the weights' SHA-256: names the model in manifests."""
        return file_hash(self.weights)

    def load(self) -> nn.Module:
        """The network with its weights, float32, in evaluation mode. Raises RunError if weights and description do not fit."""
        return load_model(self.description, self.weights)


@dataclass(frozen=True)
class VaeRun(Run):
    """A Γ-VAE, or its Gaussian twin."""

    description: VaeDescription

    def load(self) -> GammaVAE:
        """See `Run.load`."""
        module = super().load()
        assert isinstance(module, GammaVAE)
        return module

    def load_as_trained(self) -> GammaVAE | None:
        """The network before the last phase that tunes its decoder, or None without that phase. Raises as `load`."""
        if not (self.folder / AS_TRAINED).is_file():
            return None
        module = load_model(self.description, self.folder / AS_TRAINED)
        assert isinstance(module, GammaVAE)
        return module

    def texture_hash(self) -> str | None:
        """As `hash`, of the texture; None if there is none."""
        return file_hash(self.folder / TEXTURE) if (self.folder / TEXTURE).is_file() else None

    def load_texture(self) -> Texture:
        """The fine speckle that its reconstructions lack. Raises RunError when the file is missing or not a texture."""
        file, advice = self.folder / TEXTURE, "train-vae --resume makes it again"
        tensors = {name: tensor.numpy() for name, tensor in load_tensors(file, advice)[0].items()}
        known = tensors.get("deviation")
        if known is not None and known.shape == (LEVELS,):  # of an earlier version: the same at every contrast
            tensors["deviation"] = known[:, None].repeat(CONTRASTS, axis=1)
        shapes = {"deviation": (LEVELS, CONTRASTS), "spectrum": (POLAR[0], POLAR[1] // 2 + 1)}
        if {name: value.shape for name, value in tensors.items()} != shapes or any(
            v.min() < 0 for v in tensors.values()
        ):
            raise RunError(f"{file}: not a texture of echosynth; {advice}")
        return Texture(**tensors)


@dataclass(frozen=True)
class DiffusionRun(Run):
    """A diffusion model."""

    description: DiffusionDescription

    def load(self) -> Denoiser:
        """See `Run.load`."""
        module = super().load()
        assert isinstance(module, Denoiser)
        return module


@dataclass(frozen=True)
class ClassifierRun(Run):
    """A view classifier."""

    description: ClassifierDescription


def run_of(folder: Path, description: Description) -> Run:
    """The run of that kind in `folder`; nothing is read."""
    if isinstance(description, VaeDescription):
        return VaeRun(folder, description)
    if isinstance(description, DiffusionDescription):
        return DiffusionRun(folder, description)
    return ClassifierRun(folder, description)


def file_hash(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@overload
def open_run(folder: Path, kind: Literal["vae"]) -> VaeRun: ...
@overload
def open_run(folder: Path, kind: Literal["diffusion"]) -> DiffusionRun: ...
@overload
def open_run(folder: Path, kind: Literal["classifier"]) -> ClassifierRun: ...
@overload
def open_run(folder: Path, kind: Kind | None = None) -> Run: ...
def open_run(folder: Path, kind: Kind | None = None) -> Run:
    """Open a run folder. Raises RunError when it has no weights, no valid description, or is of another kind."""
    if not (folder / DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder}: no {DESCRIPTION} and {WEIGHTS} there; expected a run folder of echosynth train")
    description = read_description(folder)
    if kind and description.kind != kind:
        raise RunError(f"{folder}: holds a {description.kind} model, expected a {kind} model")
    return run_of(folder, description)


def read_description(folder: Path) -> Description:
    """model.json of `folder`, whether there are weights or not. Raises RunError or DataError when it is not valid."""
    return parse_description(read_json(folder / DESCRIPTION), str(folder / DESCRIPTION))
