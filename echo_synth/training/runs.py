"""A training command from end to end: data, network, engine, run folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echo_synth import home, registry
from echo_synth.data.augment import ColourRanges, GeometricRanges
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.prepared import Prepared, prepare
from echo_synth.errors import ExistsError, RunError
from echo_synth.files import check_writable, read_json, write_json
from echo_synth.specs import TrainingSpec
from echo_synth.training.checkpoint import STATE, load_weights
from echo_synth.training.diffusion_task import DiffusionTask
from echo_synth.training.latents import clean_fields
from echo_synth.training.loop import Engine
from echo_synth.training.perceptual_networks import build_perceptual
from echo_synth.training.vae_task import VaeTask
from echo_synth.vae.gamma import Direction
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import Family

# A left-right flip shows an anatomy that no probe orientation of CAMUS produces; the paper flips
# all the same. At the small sizes, capacity goes to the anatomy that is asked for.
_FLIP = {"tiny": 0.0, "small": 0.0}


@dataclass(frozen=True)
class VaeOptions:
    """What only a VAE's training can be asked for.

    Attributes:
        posterior: "gamma", or "gaussian" for the standard KL-VAE of the same size.
        direction: of the KL; None is the paper's for Γ, the usual ELBO's for the twin.
        prior: shape and rate of the Γ prior; None is the preset's.
        perceptual_weights: file of the perceptual network, where it is not a package's.
    """

    posterior: Family = "gamma"
    direction: Direction | None = None
    prior: tuple[float, float] | None = None
    perceptual_weights: Path | None = None

    def resolved_direction(self) -> Direction:
        return self.direction or ("prior-posterior" if self.posterior == "gamma" else "posterior-prior")


@dataclass(frozen=True)
class Settings:
    """Resolved settings of one training run."""

    model: str
    size: str
    training: TrainingSpec
    seed: int
    precision: str
    device: str
    micro_batch: int | None = None
    copies: int = 1
    init: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"training": self.training.model_dump()}

    def augmentation(self) -> GeometricRanges:
        return GeometricRanges(flip=_FLIP.get(self.size, 0.5))


def run_folder(model: str, size: str, dataset: str, out: Path | None, resume: bool, overwrite: bool) -> Path:
    """Folder of this run. A resumed one must exist; a new one must not hold a run.

    Raises:
        RunError: nothing to resume.
        ExistsError: `out` holds a run and neither `resume` nor `overwrite` is given.
    """
    folder = _default_folder(f"{model}_{size}_{dataset}", resume) if out is None else out.absolute()
    return claim_folder(folder, resume, overwrite)


def claim_folder(folder: Path, resume: bool, overwrite: bool) -> Path:
    """`folder`, after making sure that a run may start or go on there; raises as `run_folder`."""
    check_writable(folder)
    started = (folder / STATE).is_file() or (folder / registry.WEIGHTS).is_file()
    if resume and not (folder / STATE).is_file():
        raise RunError(f"{folder}: nothing to resume there (no {STATE})")
    if started and not resume and not overwrite:
        raise ExistsError(
            f"{folder} holds a run; pass --resume to continue it, --overwrite to replace it, or another --out"
        )
    return folder


def _default_folder(stem: str, resume: bool) -> Path:
    taken = sorted(home.runs().glob(f"{stem}_*"))
    if resume:
        unfinished = [f for f in taken if (f / STATE).is_file()]
        if not unfinished:
            raise RunError(f"{home.runs()}: no run named {stem}_* to resume; pass --out")
        return max(unfinished, key=lambda f: (f / STATE).stat().st_mtime)
    numbers = [int(f.name.rsplit("_", 1)[1]) for f in taken if f.name.rsplit("_", 1)[1].isdigit()]
    return home.runs() / f"{stem}_{max(numbers, default=0) + 1:02d}"


def _begin(folder: Path, description: Mapping[str, Any], resolved: Mapping[str, Any], resume: bool) -> None:
    if not resume:
        for name in (STATE, registry.WEIGHTS, "history.csv"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    write_json(folder / registry.DESCRIPTION, description)
    write_json(folder / "settings.json", resolved)


def _run(
    settings: Settings,
    module: nn.Module,
    task: VaeTask | DiffusionTask,
    folder: Path,
    resume: bool,
    data: Prepared,
    more_identity: Mapping[str, Any] | None = None,
) -> Mapping[str, float]:
    module.to(settings.device).to(memory_format=memory_format(settings.device))
    identity = {
        "model": settings.model, "size": settings.size, "data": data.fingerprint, "batch": settings.training.batch,
        "lr": settings.training.lr, "images": settings.training.images, "copies": settings.copies,
        **(more_identity or {}),
    }  # fmt: skip
    engine = Engine(
        module, task.loss, task.validate, settings.training, folder, settings.seed, identity, settings.precision,
        settings.device, getattr(task, "preview", None), settings.micro_batch,
    )  # fmt: skip
    return engine.run(resume)


def memory_format(device: str) -> torch.memory_format:
    """Layout to train in: channels last for tensor cores; on a CPU, where the backward pass of a
    channels-last GroupNorm takes thirty times that of a contiguous one, plain."""
    return torch.channels_last if device.startswith("cuda") else torch.contiguous_format


def _new_network(description: Mapping[str, Any], settings: Settings) -> nn.Module:
    """Freshly initialised, or with the weights of `settings.init`."""
    module = registry.build(dict(description), settings.seed)
    if settings.init is not None:
        load_weights(module, registry.open_run(settings.init, description["kind"]).weights)
    return module


def train_gamma_vae(
    settings: Settings,
    options: VaeOptions,
    dataset: RawDataset,
    folder: Path,
    resume: bool,
    resolved: Mapping[str, Any],
) -> Mapping[str, float]:
    """Train, or continue to train, a VAE in `folder`; returns the best validation's numbers."""
    training, direction = settings.training, options.resolved_direction()
    perceptual = build_perceptual(training.perceptual, options.perceptual_weights)
    data = prepare(dataset)
    description = registry.describe_vae(settings.model, settings.size, options.posterior, options.prior) | {
        "trained_on": dataset.name
    }
    module = _new_network(description, settings)
    task = VaeTask(
        data, settings.device, settings.seed, training.weights, training.warmup_images, settings.augmentation(),
        ColourRanges(), perceptual.to(settings.device) if perceptual else None, direction,
    )  # fmt: skip
    _begin(folder, description, resolved, resume)
    identity = {"posterior": options.posterior, "kl": direction, "perceptual": training.perceptual}
    return _run(settings, module, task, folder, resume, data, identity)


def train_diffusion(
    settings: Settings,
    dataset: RawDataset,
    vae_run: registry.Run | None,
    folder: Path,
    resume: bool,
    resolved: Mapping[str, Any],
) -> Mapping[str, float]:
    """Train, or continue to train, a diffusion model in `folder`; returns the best validation's numbers."""
    data = prepare(dataset)
    vae_hash = vae_run.hash() if vae_run else None
    description = registry.describe_diffusion(settings.model, settings.size, vae_hash) | {"trained_on": dataset.name}
    if resume:
        _same_vae(folder, vae_hash)
    vae = vae_run.load().to(settings.device) if vae_run else None
    assert vae is None or isinstance(vae, GammaVAE)
    ranges, bf16 = settings.augmentation(), settings.precision == "bf16"
    resolution = description["resolution"]
    val_rows = data.rows("val") if len(data.rows("val")) else data.rows("train")
    train = clean_fields(
        data, data.rows("train"), resolution, vae, settings.copies, ranges, settings.seed, settings.device, bf16
    )
    val = clean_fields(data, val_rows, resolution, vae, 1, ranges, settings.seed, settings.device, bf16)
    task = DiffusionTask(train, val, settings.device, settings.seed)
    _begin(folder, description, resolved, resume)
    module = _new_network(description, settings)
    return _run(settings, module, task, folder, resume, data)


def _same_vae(folder: Path, vae_hash: str | None) -> None:
    before = read_json(folder / registry.DESCRIPTION).get("vae")
    if before != vae_hash:
        raise RunError(f"{folder}: was trained on the latents of Γ-VAE {before}, found {vae_hash}; pass its --vae")
