"""Weights of the paper's own code (EDMLX) in our networks: names mapped, nothing executed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from echo_synth.diffusion.denoiser import Denoiser, build_network
from echo_synth.diffusion.preconditioning import EdmPrecond, IddpmPrecond, Precond, VePrecond, VpPrecond
from echo_synth.errors import RunError
from echo_synth.vae.network import GammaVAE

State = Mapping[str, NDArray[Any]]
Module = TypeVar("Module", bound=torch.nn.Module)
_MAX_LEVELS = 10_000
_PRECONDS: dict[str, type[Precond]] = {
    "EDMPrecond": EdmPrecond,
    "VEPrecond": VePrecond,
    "VPPrecond": VpPrecond,
    "iDDPMPrecond": IddpmPrecond,
}
_VAE_NAMES = [
    (r"^(encoder|decoder)\.blocks\.(\d+)\.conv\.(weight|bias)$", r"\1.\2.\3"),
    (r"^(encoder|decoder)\.blocks\.(\d+)\.", r"\1.\2."),
    (r"^quant_conv_mu\.conv\.", "to_alpha."),
    (r"^quant_conv_log_sigma\.conv\.", "to_beta."),
    (r"^post_quant_conv\.conv\.", "from_latent."),
    (r"\.nin_shortcut\.conv\.", ".shortcut."),
    (r"\.(conv1|conv2|conv)\.conv\.", r".\1."),
    (r"\.proj_attn\.", ".out_proj."),
    (r"\.(to_[qkv])\.", r".attn.\1."),
]


def _tensors(state: State) -> dict[str, Tensor]:
    return {k: torch.from_numpy(np.array(v, dtype=np.float32)) for k, v in state.items()}


def _build(make: Callable[[], Module], tensors: Mapping[str, Tensor], what: str) -> Module:
    """The module that `make` builds, holding `tensors`.

    Shapes are compared before any memory is taken: settings read off a hostile file may ask for a lot of it.
    """
    with torch.device("meta"):
        own = make().state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or wrong:
        raise RunError(
            f"{what}: weights do not fit the settings (missing {missing[:2]}, unknown {extra[:2]}, misshapen {wrong[:2]})"
        )
    module = make()
    module.load_state_dict(dict(tensors))
    return module


# Defaults of the reference's constructors, for settings that leave them out.
_ADM_DEFAULTS: dict[str, Any] = {
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_resolutions": (32, 16, 8),
    "dropout": 0.1,
}
_SONG_DEFAULTS: dict[str, Any] = {
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "dropout": 0.1,
}


def _shape(settings: Mapping[str, Any], n: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `UNetShape` as a dictionary; the width of SPADE's hidden layer is read off its weights."""
    n = {**(_ADM_DEFAULTS if n["model_type"] == "DhariwalUNet" else _SONG_DEFAULTS), **n}
    hidden = next((v.shape[0] for k, v in tensors.items() if k.endswith("mlp_shared.0.weight")), 128)
    return {
        "resolution": int(settings["resolution"]),
        "classes": int(settings["num_classes"]),
        "channels": int(n["model_channels"]),
        "channel_mult": [int(m) for m in n["channel_mult"]],
        "blocks": int(n["num_blocks"]),
        "attention": [int(r) for r in n["attn_resolutions"]],
        "dropout": float(n["dropout"]),
        "spade_hidden": int(hidden),
        "embedding_mult": int(n.get("channel_mult_emb", 4)),
        "out_channels": 2 if settings["precond"] == "iDDPMPrecond" else 1,
    }


def describe_network(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The part of a model.json that builds the U-Net which `settings` of the reference describe.

    Raises RunError for an architecture that the paper does not use.
    """
    n = settings.get("network", {})
    kind = n.get("model_type")
    if kind not in ("DhariwalUNet", "SongUNet"):
        raise RunError(f"model_type {kind}: expected DhariwalUNet or SongUNet")
    shape = _shape(settings, n, tensors)
    if kind == "DhariwalUNet":
        return {"architecture": "adm", "network": shape}
    encoder, decoder = n.get("encoder_type", "standard"), n.get("decoder_type", "standard")
    if encoder not in ("standard", "residual") or decoder != "standard":
        raise RunError(f"encoder {encoder}, decoder {decoder}: expected standard or residual, and standard")
    song = {
        "embedding_type": n.get("embedding_type", "positional"),
        "residual_input": encoder == "residual",
        "noise_mult": int(n.get("channel_mult_noise", 1)),
        "taps": list(n.get("resample_filter", [1, 1])),
    }
    return {"architecture": "song", "network": shape, "song": song}


_PRECOND_ARGUMENTS = {
    "sigma_data": "sigma_data",
    "beta_d": "beta_d",
    "beta_min": "beta_min",
    "M": "levels",
    "epsilon_t": "t_min",
    "C_1": "c1",
    "C_2": "c2",
}


def precond_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our formulation's constructor that the reference's settings name, e.g. its sigma_data."""
    known = inspect.signature(_PRECONDS[settings["precond"]]).parameters
    if not 1 <= int(settings.get("M", 1)) <= _MAX_LEVELS:
        raise RunError(f"M = {settings['M']}: expected 1 to {_MAX_LEVELS} noise levels")
    given = {
        ours: int(settings[theirs]) if theirs == "M" else float(settings[theirs])
        for theirs, ours in _PRECOND_ARGUMENTS.items()
        if theirs in settings
    }
    return {name: value for name, value in given.items() if name in known}


def load_denoiser(settings: Mapping[str, Any], state: State) -> Denoiser:
    """Our denoiser with the reference's weights, in evaluation mode. Raises RunError when they do not fit."""
    tensors = _tensors(state)
    if settings.get("precond") not in _PRECONDS:
        raise RunError(f"precond {settings.get('precond')}: expected one of {', '.join(_PRECONDS)}")
    precond = _PRECONDS[settings["precond"]](**precond_arguments(settings))
    if isinstance(precond, IddpmPrecond) and "u" in tensors:
        precond.u = tensors.pop("u").double()  # the levels it was trained at
    description = describe_network(settings, tensors)
    architecture, song, shape = description["architecture"], description.get("song"), description["network"]
    network = _build(lambda: build_network(architecture, song, **shape), rename_network(tensors), settings["precond"])
    return Denoiser(network, precond).eval().requires_grad_(False)


def rename_network(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Song's decoder ends in an "auxiliary" norm and convolution; ours calls them what they are.

    Resampling filters are left out: they are settings, not parameters.
    """
    return {
        re.sub(r"dec\.\d+x\d+_aux_(norm|conv)\.", r"out_\1.", k.removeprefix("model.")): v
        for k, v in tensors.items()
        if not k.endswith("resample_filter")
    }


def load_network(settings: Mapping[str, Any], state: State) -> Callable[[ArrayLike, ArrayLike, ArrayLike], Tensor]:
    """denoise(x, sigma, labels) of the reference's weights.

    Args:
        settings: the reference constructor's, as in reference/vectors/*.json.
        state: parameter name to array.

    Returns:
        a function of x (N, 1, R, R), sigma (N,) and labels (N, R, R); arrays or tensors in, tensor out.
    """
    denoiser = load_denoiser(settings, state)

    @torch.no_grad()
    def denoise(x: ArrayLike, sigma: ArrayLike, labels: ArrayLike) -> Tensor:
        modulations = denoiser.modulate(torch.as_tensor(np.asarray(labels)))
        result: Tensor = denoiser(torch.as_tensor(np.asarray(x)), torch.as_tensor(np.asarray(sigma)), modulations)
        return result

    return denoise


class EdmlxVae:
    """The reference's Γ-VAE behind array-friendly methods; images (N, 1, H, W) in [0, 1], masks 0 or 1."""

    def __init__(self, vae: GammaVAE) -> None:
        self.vae = vae

    @torch.no_grad()
    def encode(self, x: ArrayLike) -> tuple[Tensor, Tensor]:
        """Raw maps before softplus and prior, each (N, 1, h, w)."""
        return self.vae.encode(torch.as_tensor(np.asarray(x)))

    @torch.no_grad()
    def latent(self, x: ArrayLike, mask: ArrayLike) -> Tensor:
        """E[z] inside the sector, (N, 1, h, w)."""
        return self.vae.latent(torch.as_tensor(np.asarray(x)), torch.as_tensor(np.asarray(mask)).float())

    @torch.no_grad()
    def decode(self, z: ArrayLike, mask: ArrayLike) -> Tensor:
        """Images (N, 1, H, W), zero outside the sector."""
        return self.vae.decode(torch.as_tensor(np.asarray(z)), torch.as_tensor(np.asarray(mask)).float())


def describe_vae(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of our `GammaVAE` for the reference's settings.

    Its residual blocks carry no activation, and its attention never applies its projection.
    """
    return {
        "channels": [int(c) for c in settings["num_channels"]],
        "blocks": int(settings["num_res_blocks"]),
        "norm_groups": int(settings["norm_num_groups"]),
        "level_attention": bool(settings["attention_levels"][-1]),
        "mid_attention": True,
        "alpha_prior": float(settings["alpha_prior"]),
        "beta_prior": float(settings["beta_prior"]),
        "activation": "none",
        "projection": False,
    }


def rename_vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference's parameter names as ours; the projection that it stores and never applies is left out."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _VAE_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".out_proj." not in name:
            renamed[name] = tensor
    return renamed


def load_vae(settings: Mapping[str, Any], state: State) -> EdmlxVae:
    """The reference's Γ-VAE. Raises RunError when the weights do not fit the settings."""
    arguments = describe_vae(settings)
    vae = _build(lambda: GammaVAE(**arguments), rename_vae(_tensors(state)), "Γ-VAE")
    return EdmlxVae(vae.eval().requires_grad_(False))
