"""Weights of the paper's own code (EDMLX) in our networks: names mapped, nothing executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from echo_synth.diffusion.adm import AdmUNet
from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.diffusion.precond import EdmPrecond, IddpmPrecond, Precond, VePrecond, VpPrecond
from echo_synth.diffusion.song import SongUNet
from echo_synth.diffusion.unet import SemanticUNet
from echo_synth.errors import RunError
from echo_synth.vae.network import GammaVAE

State = Mapping[str, NDArray[Any]]
_PRECONDS: dict[str, type[Precond]] = {
    "EDMPrecond": EdmPrecond, "VEPrecond": VePrecond, "VPPrecond": VpPrecond, "iDDPMPrecond": IddpmPrecond,
}  # fmt: skip
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


def _load(module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or wrong:
        raise RunError(
            f"{what}: weights do not fit the settings (missing {missing[:2]}, unknown {extra[:2]}, misshapen {wrong[:2]})"
        )
    module.load_state_dict(dict(tensors))


def build_network(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SemanticUNet:
    """The U-Net that `settings["network"]` of the reference describes, without weights."""
    n = settings["network"]
    hidden = next((v.shape[0] for k, v in tensors.items() if k.endswith("mlp_shared.0.weight")), 128)
    common: dict[str, Any] = {
        "resolution": settings["resolution"], "classes": settings["num_classes"], "channels": n.get("model_channels", 192),
        "channel_mult": n.get("channel_mult", [1, 2, 3, 4]), "blocks": n.get("num_blocks", 3),
        "attention": n.get("attn_resolutions", [32, 16, 8]), "dropout": n.get("dropout", 0.1), "spade_hidden": int(hidden),
        "out_channels": 2 if settings["precond"] == "iDDPMPrecond" else 1,
    }  # fmt: skip
    if n["model_type"] == "DhariwalUNet":
        return AdmUNet(**common)
    if n["model_type"] != "SongUNet":
        raise RunError(f"model_type {n['model_type']}: expected DhariwalUNet or SongUNet")
    if (
        n.get("encoder_type", "standard") not in ("standard", "residual")
        or n.get("decoder_type", "standard") != "standard"
    ):
        raise RunError(
            f"encoder {n.get('encoder_type')}, decoder {n.get('decoder_type')}: expected standard or residual, and standard"
        )
    return SongUNet(
        **common, embedding_type=n.get("embedding_type", "positional"), residual_input=n.get("encoder_type") == "residual",
        noise_mult=n.get("channel_mult_noise", 1), taps=n.get("resample_filter", [1, 1]),
    )  # fmt: skip


def load_denoiser(settings: Mapping[str, Any], state: State) -> Denoiser:
    """Our denoiser with the reference's weights, in evaluation mode. Raises RunError when they do not fit."""
    tensors = _tensors(state)
    if settings["precond"] not in _PRECONDS:
        raise RunError(f"precond {settings['precond']}: expected one of {', '.join(_PRECONDS)}")
    precond = _PRECONDS[settings["precond"]]()
    if isinstance(precond, IddpmPrecond) and "u" in tensors:
        precond.u = tensors.pop("u").double()  # the levels it was trained at
    network = build_network(settings, tensors)
    # Song's decoder ends in an "auxiliary" norm and convolution; ours calls them what they are.
    renamed = {
        re.sub(r"dec\.\d+x\d+_aux_(norm|conv)\.", r"out_\1.", k.removeprefix("model.")): v for k, v in tensors.items()
    }
    _load(network, renamed, settings["precond"])
    return Denoiser(network, precond).eval().requires_grad_(False)


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


def load_vae(settings: Mapping[str, Any], state: State) -> EdmlxVae:
    """The reference's Γ-VAE. Its residual blocks carry no activation. Raises RunError when the weights do not fit."""
    levels = settings["attention_levels"]
    vae = GammaVAE(
        settings["num_channels"], settings["num_res_blocks"], settings["norm_num_groups"], level_attention=levels[-1],
        mid_attention=True, alpha_prior=settings["alpha_prior"], beta_prior=settings["beta_prior"], activation="none", projection=False,
    )  # fmt: skip
    renamed = {}
    for name, tensor in _tensors(state).items():
        for pattern, replacement in _VAE_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".out_proj." not in name:  # stored, but the reference never applies it
            renamed[name] = tensor
    _load(vae, renamed, "Γ-VAE")
    return EdmlxVae(vae.eval().requires_grad_(False))
