"""The reference constructors' settings, read off the names and shapes of their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from echo_synth.errors import RunError

Tensors = Mapping[str, Tensor]


def _strip(tensors: Tensors) -> dict[str, Tensor]:
    return {k.removeprefix("module.").removeprefix("model."): v for k, v in tensors.items()}


def network_settings(tensors: Tensors, precond: str) -> dict[str, Any]:
    """Settings as in reference/vectors/*.json of a SPADE U-Net's `tensors`.

    Args:
        tensors: parameters and buffers by their names in the reference.
        precond: class name of the preconditioning, e.g. EDMPrecond.

    Raises:
        RunError: these are not a SPADE U-Net's tensors.
    """
    t = _strip(tensors)
    first = [(int(m[1]), v) for k, v in t.items() if (m := re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", k))]
    classes = [v.shape[1] for k, v in t.items() if k.endswith("mlp_shared.0.weight")]
    if len(first) != 1 or not classes:
        raise RunError("no SPADE U-Net in this file (expected enc.<R>x<R>_conv and mlp_shared parameters)")
    resolution, channels = first[0][0], int(first[0][1].shape[0])
    widths: dict[int, int] = {}
    counts: dict[int, int] = {}
    for k, v in t.items():
        if m := re.fullmatch(r"enc\.(\d+)x\1_block\d+\.conv0\.weight", k):
            side = int(m[1])
            widths[side], counts[side] = int(v.shape[0]), counts.get(side, 0) + 1
    sides = sorted(widths, reverse=True)
    if not sides:
        raise RunError("this U-Net has no encoder blocks (enc.<R>x<R>_block<i>)")
    attention = sorted({int(m[1]) for k in t if (m := re.match(r"enc\.(\d+)x\1_block\d+\.qkv\.", k))}, reverse=True)
    network: dict[str, Any] = {
        "model_channels": channels,
        "channel_mult": [widths[s] // channels for s in sides],
        "num_blocks": counts[sides[0]],
        "attn_resolutions": attention,
        "channel_mult_emb": int(t["map_layer0.weight"].shape[0]) // channels,
    }
    if any("_aux_norm." in k for k in t):
        network |= {"model_type": "SongUNet", **_song_settings(t, channels)}
    else:
        network["model_type"] = "DhariwalUNet"
    return {"precond": precond, "resolution": resolution, "num_classes": int(classes[0]), "network": network}


def _song_settings(t: Tensors, channels: int) -> dict[str, Any]:
    fourier = "map_noise.freqs" in t
    residual = any("_aux_residual." in k for k in t)
    filters = [v for k, v in t.items() if k.endswith("resample_filter")]
    taps = [1, 1] if not residual else [1, 3, 3, 1]
    if filters:  # stored as the outer product of the normalised taps
        row = filters[0].reshape(filters[0].shape[-2:])[0].float()
        taps = [round(float(v)) for v in row / row[0]]
    return {
        "embedding_type": "fourier" if fourier else "positional",
        "encoder_type": "residual" if residual else "standard",
        "decoder_type": "skip" if any("_aux_up" in k for k in t) else "standard",
        "channel_mult_noise": int(t["map_layer0.weight"].shape[1]) // channels,
        "resample_filter": taps,
    }


def is_vae(tensors: Tensors) -> bool:
    """Whether these are the reference VAE's tensors."""
    return any(k.startswith("quant_conv_mu") for k in tensors)


def vae_settings(tensors: Tensors) -> dict[str, Any]:
    """Settings of the reference's Γ-VAE; what shapes do not tell (groups, prior) has the paper's values."""
    kinds: dict[int, str] = {}
    widths: dict[int, int] = {}
    for k, v in tensors.items():
        if m := re.match(r"encoder\.blocks\.(\d+)\.(conv1|to_q|conv\.conv)\.", k):
            index = int(m[1])
            kinds[index] = {"conv1": "residual", "to_q": "attention", "conv.conv": "down"}[m[2]]
            if m[2] == "conv1" and k.endswith("conv1.conv.weight"):
                widths[index] = int(v.shape[0])
    if not kinds:
        raise RunError("no Γ-VAE in this file (expected encoder.blocks.<i>.conv1 parameters)")
    levels: list[list[int]] = [[]]
    attentions = 0
    for index in sorted(kinds):
        if kinds[index] == "down":
            levels.append([])
        elif kinds[index] == "residual":
            levels[-1].append(widths[index])
        attentions += kinds[index] == "attention"
    blocks = len(levels[-1]) - 2  # the last segment also holds the bottleneck's two
    return {
        "alpha_prior": 3.75,
        "beta_prior": 10.8,
        "num_channels": [level[0] for level in levels],
        "num_res_blocks": blocks,
        "norm_num_groups": 32,
        "attention_levels": [False] * (len(levels) - 1) + [attentions > 1],
    }
