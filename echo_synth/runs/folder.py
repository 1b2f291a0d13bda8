"""A run folder: its files, and how commands find one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from torch import nn

from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.errors import RunError
from echo_synth.files import read_json
from echo_synth.home import runs
from echo_synth.runs.description import (
    ClassifierDescription,
    Description,
    DiffusionDescription,
    Kind,
    VaeDescription,
    parse_description,
)
from echo_synth.runs.loading import load_model
from echo_synth.vae.network import GammaVAE

WEIGHTS, DESCRIPTION, STATE = "model.safetensors", "model.json", "state.safetensors"
AVERAGES = "averages"  # folder of the snapshots that average-weights combines


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
        """The network with its weights, float32, in evaluation mode. Raises RunError where they do not fit each other."""
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
    """Open a run folder. Raises RunError when it holds no weights, no valid description, or not of that kind."""
    if not (folder / DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder}: no {DESCRIPTION} and {WEIGHTS} there; expected a run folder of echosynth train")
    description = parse_description(read_json(folder / DESCRIPTION), str(folder / DESCRIPTION))
    if kind and description.kind != kind:
        raise RunError(f"{folder}: holds a {description.kind} model, expected a {kind} model")
    return run_of(folder, description)


def newest_run(model: str, trained_on: str | None = None) -> Run | None:
    """The run of `model` below ECHOSYNTH_HOME/runs whose weights are the most recent, or None.

    Args:
        trained_on: name of a dataset; only runs trained on it count.
    """
    candidates = []
    for file in runs().glob(f"*/{DESCRIPTION}"):
        if not (file.parent / WEIGHTS).is_file():
            continue
        description = read_json(file)
        if description.get("model") == model and trained_on in (None, description.get("trained_on")):
            candidates.append(file.parent)
    if not candidates:
        return None
    return open_run(max(candidates, key=lambda f: (f / WEIGHTS).stat().st_mtime))


def newest_classifier(trained_on: str) -> ClassifierRun | None:
    """The most recent view classifier that was trained on the dataset of that name, or None."""
    run = newest_run("classifier", trained_on)
    return open_run(run.folder, "classifier") if run else None


def bundled_run(model: str) -> Run | None:
    """The phantom-trained weights that ship with the package, or None where there are none."""
    folder = specs.root() / "bundled" / model
    return open_run(folder) if (folder / DESCRIPTION).is_file() else None


def find_run(model: str, folder: Path | None = None) -> Run:
    """`folder`, else the newest run of `model`, else the bundled one. Raises RunError when there is none."""
    if folder is not None:
        run = open_run(folder)
        if run.description.model != model:
            raise RunError(f"{folder}: holds {run.description.model}, expected {model}")
        return run
    run_or_none = newest_run(model) or bundled_run(model)
    if run_or_none is None:
        command = "train-vae" if model in specs.VAE_MODELS else "train"
        raise RunError(f"no run of {model} in {runs()} and none bundled; run 'echosynth {command} --model {model} …'")
    return run_or_none


def find_diffusion(model: str, folder: Path | None = None) -> DiffusionRun:
    """`find_run` of a diffusion model."""
    run = find_run(model, folder)
    if not isinstance(run, DiffusionRun):
        raise RunError(f"{run.folder}: holds a {run.description.kind} model, expected a diffusion model")
    return run


def find_vae(model: str, folder: Path | None = None) -> VaeRun:
    """The Γ-VAE for a diffusion model's latents: any VAE of that grid in `folder`, else as `find_run`."""
    if folder is None:
        run = find_run(model)
        return open_run(run.folder, "vae")
    run, wanted = open_run(folder, "vae"), specs.vae_model(model).latent_resolution
    if run.description.latent_resolution != wanted:
        raise RunError(
            f"--vae {folder}: its latents are {run.description.latent_resolution} px wide, expected {wanted}; "
            f"use a {model}"
        )
    return run


def find_vae_of(description: DiffusionDescription, vae_model: str, beside: Path) -> VaeRun:
    """The Γ-VAE whose latents a diffusion run was trained on, found by the hash of its weights.

    Looked for beside the run (its siblings), among the runs and in the bundle. Raises RunError
    when none has that hash.
    """
    wanted = description.vae
    candidates = [beside / "vae", *sorted(beside.parent.glob(f"*/{DESCRIPTION}")), *runs().glob(f"*/{DESCRIPTION}")]
    folders = [c if c.is_dir() else c.parent for c in candidates]
    folders.append(specs.root() / "bundled" / vae_model)
    for folder in folders:
        if (folder / WEIGHTS).is_file() and file_hash(folder / WEIGHTS) == wanted:
            return open_run(folder, "vae")
    raise RunError(f"{beside}: its Γ-VAE (weights {wanted}) is in no run folder; pass --vae with its folder")
