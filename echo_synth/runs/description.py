"""model.json: all that is needed to build the network that a run's weights fit.

Presets are resolved into plain numbers when a run starts: a later change of a preset does not
change an old run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser, build_network
from echo_synth.diffusion.preconditioning import build_precond
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import Family


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


def build_model(description: dict[str, Any], seed: int = 0) -> nn.Module:
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
