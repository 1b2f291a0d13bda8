"""Cheaper networks for CPUs: the planned one without its finest, dearest stage, at half the resolution inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BY_STAGE = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage")
_LEAST_FEATURES = 8
Settings = dict[str, Any]  # keyword arguments of a network class of dynamic_network_architectures


def with_stages(settings: Mapping[str, Any], count: int) -> Settings:
    """nnU-Net's settings of a network with `count` stages; further ones repeat the coarsest.

    Plain (n_conv_per_stage) and residual encoders (n_blocks_per_stage) alike.
    """
    resized = dict(settings) | {"n_stages": count}
    for name in _BY_STAGE:
        if name in settings:
            resized[name] = _resized(settings[name], count)
    resized["n_conv_per_stage_decoder"] = _resized(settings["n_conv_per_stage_decoder"], count - 1)
    return resized


def _resized(values: Any, count: int) -> Any:
    if not isinstance(values, Sequence):
        return values  # one number for all stages
    return [*values[:count], *[values[-1]] * (count - len(values))]


def check_architecture(class_name: str, settings: Mapping[str, Any], imported: Sequence[str]) -> None:
    """Refuse plans that name anything but network classes: nnU-Net imports and calls what they name.

    Args:
        imported: keys of `settings` whose values are names to import.

    Raises RuntimeError for a class of another library than nnU-Net's networks, or a value of another than torch.
    """
    names = [settings[key] for key in imported if settings.get(key) is not None]
    if class_name.startswith("dynamic_network_architectures.") and all(str(n).startswith("torch.nn.") for n in names):
        return
    raise RuntimeError(
        f"plans name '{class_name}' with {names}; expected a class of dynamic_network_architectures and names of torch.nn"
    )


def narrower(settings: Mapping[str, Any], width: float) -> Settings:
    """The same network with `width` times the features, never fewer than 8."""
    features = [max(_LEAST_FEATURES, int(f * width)) for f in settings["features_per_stage"]]
    return dict(settings) | {"features_per_stage": features}


class _HalfResolution(nn.Module):
    """A U-Net that works at half the resolution of what goes in and comes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def decoder(self) -> nn.Module:
        """Where nnU-Net switches deep supervision."""
        return self.network.decoder  # type: ignore[return-value]


class PooledNetwork(_HalfResolution):
    """2 x 2 averaging of the image, bilinear enlargement of the logits.

    Takes and gives what the planned network does: (N, C, H, W) to (N, K, H, W), with deep
    supervision a list that begins at full resolution and halves.
    """

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        output = self.network(F.avg_pool2d(x, 2))
        finest = output[0] if isinstance(output, (list, tuple)) else output
        enlarged = F.interpolate(finest, scale_factor=2, mode="bilinear", align_corners=False)
        return [enlarged, *output] if isinstance(output, (list, tuple)) else enlarged


class SubpixelNetwork(_HalfResolution):
    """Blocks of 2 x 2 pixels go in as channels and come out as pixels: nothing of the image is averaged away.

    Takes and gives what the planned network does, see `PooledNetwork`; every output is given at twice
    the resolution of the stage that it comes from, so there is one fewer.
    """

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        output = self.network(F.pixel_unshuffle(x, 2))
        if isinstance(output, (list, tuple)):
            return [F.pixel_shuffle(o, 2) for o in output]
        shuffled: Tensor = F.pixel_shuffle(output, 2)
        return shuffled


def labels_at(labels: Tensor, scales: Sequence[Sequence[float]] | None) -> Tensor | list[Tensor]:
    """Labels (N, 1, H, W) at each scale of deep supervision, nearest pixel; unchanged without scales."""
    if scales is None:
        return labels
    at_scales = []
    for scale in scales:
        size = [round(s * f) for s, f in zip(labels.shape[2:], scale, strict=True)]
        same = size == list(labels.shape[2:])
        at_scales.append(labels if same else F.interpolate(labels.float(), size, mode="nearest-exact").to(labels.dtype))
    return at_scales


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; where it is emulated autocast is slower than float32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Mixed precision of a device: fp16 on a GPU, bf16 on a CPU."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)
