"""From names to networks, and from run folders back to networks.

A run folder holds model.safetensors (weights) and model.json (everything needed to build the
network that they fit). Presets are resolved into plain numbers when a run starts: a later
change of a preset does not change an old run.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser, build_network
from echo_synth.diffusion.precond import build_precond
from echo_synth.errors import RunError
from echo_synth.files import read_json
from echo_synth.home import runs
from echo_synth.training.checkpoint import load_weights
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import Family

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def describe_vae(
    name: str, size: str, posterior: Family = "gamma", prior: tuple[float, float] | None = None
) -> dict[str, Any]:
    """model.json of a new Γ-VAE, or its Gaussian twin: network settings, prior (shape, rate), grids."""
    spec = specs.vae_model(name)
    settings = specs.size_of(spec, size).model_dump()
    alpha, beta = prior or (spec.alpha_prior, spec.beta_prior)
    network = {**settings, "alpha_prior": alpha, "beta_prior": beta, "activation": "silu", "posterior": posterior}
    return {"kind": "vae", "model": vae_name(name, posterior), "size": size, "resolution": spec.resolution,
            "latent_resolution": spec.latent_resolution, "network": network}  # fmt: skip


def vae_name(name: str, posterior: Family) -> str:
    """gamma-vae-64, or gaussian-vae-64 for its twin, so that neither is taken for the other."""
    return name.replace("gamma", posterior)


def describe_diffusion(name: str, size: str, vae: str | None) -> dict[str, Any]:
    """model.json of a new diffusion model; `vae` is the hash of the weights whose latents it sees."""
    spec = specs.diffusion_model(name)
    network = {
        "resolution": spec.resolution, "classes": specs.labels().semantic_classes,
        **specs.size_of(spec, size).model_dump(),
        "out_channels": 2 if spec.precond == "iddpm" else 1,
    }  # fmt: skip
    return {"kind": "diffusion", "model": name, "size": size, "resolution": spec.resolution,
            "precond": spec.precond, "architecture": spec.network, "network": network, "vae": vae}  # fmt: skip


def describe_classifier(architecture: str, resolution: int, classes: tuple[str, ...]) -> dict[str, Any]:
    """model.json of a new view classifier: timm architecture, one input channel, class order."""
    network = {"in_chans": 1, "num_classes": len(classes), "drop_rate": 0.2}
    return {"kind": "classifier", "model": "classifier", "size": "paper", "architecture": architecture,
            "resolution": resolution, "classes": list(classes), "network": network}  # fmt: skip


def build(description: dict[str, Any], seed: int = 0) -> nn.Module:
    """The network of a model.json, freshly initialised from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if description["kind"] == "vae":
            return GammaVAE(**description["network"])
        if description["kind"] == "classifier":
            import timm

            return timm.create_model(description["architecture"], **description["network"])
        network = build_network(description["architecture"], description.get("song"), **description["network"])
        return Denoiser(network, build_precond(description["precond"], **description.get("precond_arguments", {})))


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run folder with its description."""

    folder: Path
    description: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def hash(self) -> str:
        """First 16 hex digits of the weights' SHA-256: names the model in manifests."""
        return file_hash(self.weights)

    def load(self) -> nn.Module:
        """The network with its weights, float32, in evaluation mode."""
        module = build(self.description)
        load_weights(module, self.weights)
        return module.eval().requires_grad_(False)


def file_hash(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def open_run(folder: Path, kind: str | None = None) -> Run:
    """Open a run folder. Raises RunError when it holds no weights, or not of that kind (vae, diffusion)."""
    if not (folder / DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder}: no {DESCRIPTION} and {WEIGHTS} there; expected a run folder of echosynth train")
    description = read_json(folder / DESCRIPTION)
    if kind and description.get("kind") != kind:
        raise RunError(f"{folder}: holds a {description.get('kind')} model, expected a {kind} model")
    return Run(folder, description)


def newest_run(model: str, trained_on: str | None = None) -> Run | None:
    """The run of `model` below ECHOSYNTH_HOME/runs whose weights are the most recent, or None.

    Args:
        trained_on: name of a dataset; only runs trained on it count.
    """
    found = []
    for file in runs().glob(f"*/{DESCRIPTION}"):
        if not (file.parent / WEIGHTS).is_file():
            continue
        description = read_json(file)
        if description.get("model") == model and trained_on in (None, description.get("trained_on")):
            found.append(file.parent)
    if not found:
        return None
    return open_run(max(found, key=lambda f: (f / WEIGHTS).stat().st_mtime))


def bundled_run(model: str) -> Run | None:
    """The phantom-trained weights that ship with the package, or None where there are none."""
    folder = specs.root() / "bundled" / model
    return open_run(folder) if (folder / DESCRIPTION).is_file() else None


def find_run(model: str, folder: Path | None = None) -> Run:
    """`folder`, else the newest run of `model`, else the bundled one. Raises RunError when there is none."""
    if folder is not None:
        run = open_run(folder)
        if run.description["model"] != model:
            raise RunError(f"{folder}: holds {run.description['model']}, expected {model}")
        return run
    run_or_none = newest_run(model) or bundled_run(model)
    if run_or_none is None:
        command = "train-vae" if model in specs.VAE_MODELS else "train"
        raise RunError(f"no run of {model} in {runs()} and none bundled; run 'echosynth {command} --model {model} …'")
    return run_or_none


def find_vae(model: str, folder: Path | None = None) -> Run:
    """The Γ-VAE for a diffusion model's latents: any VAE of that grid in `folder`, else as `find_run`."""
    if folder is None:
        return find_run(model)
    run, wanted = open_run(folder, "vae"), specs.vae_model(model).latent_resolution
    if run.description["latent_resolution"] != wanted:
        raise RunError(
            f"--vae {folder}: its latents are {run.description['latent_resolution']} px wide, expected {wanted}; "
            f"use a {model}"
        )
    return run


def find_vae_of(description: dict[str, Any], vae_model: str, beside: Path) -> Run:
    """The Γ-VAE whose latents a diffusion run was trained on, found by the hash of its weights.

    Looked for beside the run (its siblings), among the runs and in the bundle. Raises RunError
    when none has that hash.
    """
    wanted = description["vae"]
    candidates = [beside / "vae", *sorted(beside.parent.glob(f"*/{DESCRIPTION}")), *runs().glob(f"*/{DESCRIPTION}")]
    folders = [c if c.is_dir() else c.parent for c in candidates]
    folders.append(specs.root() / "bundled" / vae_model)
    for folder in folders:
        if (folder / WEIGHTS).is_file() and file_hash(folder / WEIGHTS) == wanted:
            return open_run(folder, "vae")
    raise RunError(f"{beside}: its Γ-VAE (weights {wanted}) is in no run folder; pass --vae with its folder")


def training_device(device: str) -> str:
    """auto resolved to cuda or cpu. Raises RunError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RunError(f"--device {device}: no CUDA device is available; use --device cpu")
    if ":" in device:
        index, count = device.partition(":")[2], torch.cuda.device_count()
        if not index.isdigit() or int(index) >= count:
            raise RunError(f"--device {device}: found {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(int(index))
    elif device == "cuda" and "LOCAL_RANK" in os.environ:  # one process a GPU under torchrun
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return device


def resolve_precision(precision: str, device: str) -> str:
    """auto resolved: bf16 where the hardware multiplies in it, else fp32. Raises RunError for an unknown one."""
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise RunError(f"--precision {precision}: expected auto, fp32, bf16 or fp16")
    if precision == "fp16" and device == "cpu":
        raise RunError("--precision fp16: CPUs compute in bf16 or fp32; choose one of them")
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX: without them bf16 is emulated and slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
