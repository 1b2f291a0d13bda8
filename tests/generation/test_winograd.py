"""Convolutions in fewer multiplications: exact on whole numbers, near float64, and only where they gain."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.generation.engine import ImageGenerator, default_settings
from echo_synth.generation.winograd import WinogradConv2d
from echo_synth.runs.description import build_model, describe_diffusion
from echo_synth.runs.find import find_diffusion


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(inputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _images(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


@torch.no_grad()
def test_whole_numbers_are_convolved_exactly() -> None:
    """Filters in multiples of 24² have whole transforms, so nothing is rounded: every output must be equal."""
    numbers = torch.Generator().manual_seed(1)
    conv = _conv(3, 5)
    conv.weight.copy_(576 * torch.randint(-2, 3, conv.weight.shape, generator=numbers))
    x = torch.randint(-3, 4, (2, 3, 16, 24), generator=numbers).float().to(memory_format=torch.channels_last)
    nn.init.constant_(_bias(conv), 7)
    assert torch.equal(WinogradConv2d(conv)(x), conv(x))


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 8, 16, 16), (5, 8, 20, 16), (3, 8, 64, 64), (2, 16, 16, 132)])
def test_it_is_a_convolution(shape: tuple[int, ...], bias: bool) -> None:
    conv, x = _conv(shape[1], 12, bias), _images(shape)
    layer = WinogradConv2d(conv)
    found, exact = layer(x), F.conv2d(x.double(), conv.weight.double(), padding=1)
    exact += _bias(conv).double().reshape(-1, 1, 1) if bias else 0
    assert layer.filters is not None
    assert found.shape == exact.shape
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float((found - exact).norm() / exact.norm()) < 5e-6
    assert float((found - exact).abs().max()) < 5e-5 * float(exact.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("size", [(18, 16), (16, 17), (8, 8)])
def test_where_it_does_not_fit_or_gain_it_is_the_convolution_itself(size: tuple[int, int]) -> None:
    conv, x = _conv(4, 6), _images((2, 4, *size))
    layer = WinogradConv2d(conv)
    assert torch.equal(layer(x), conv(x))
    assert layer.filters is None


@torch.no_grad()
def test_an_image_does_not_notice_the_others() -> None:
    layer, x = WinogradConv2d(_conv(8, 8)), _images((40, 8, 16, 16))
    together = layer(x)
    x[1, 2, 3, 4] = torch.nan  # nor hide what is not finite
    assert torch.allclose(layer(x[7:8]), together[7:8], atol=1e-5)
    assert bool(layer(x)[1].isnan().any())
    assert bool(layer(x)[2:].isfinite().all())


def _wide() -> Denoiser:
    """EDM-L64 with 192 channels at 64 x 64 and at 32 x 32, which has few blocks."""
    description = describe_diffusion("edm-l64", "tiny", None)
    wide = description.network.model_copy(update={"channels": 192, "channel_mult": (1, 1)})
    denoiser = build_model(description.model_copy(update={"network": wide}), 0).eval()
    assert isinstance(denoiser, Denoiser)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.02)  # training starts some near 0, where nothing would be seen
    return denoiser


def _layers(network: nn.Module) -> list[WinogradConv2d]:
    return [m for m in network.modules() if isinstance(m, WinogradConv2d)]


def test_images_of_a_wide_network_are_the_same_up_to_rounding() -> None:
    tissues, frames = np.full((2, 256, 256), 4, np.uint8), np.zeros(2, np.uint8)
    tissues[:, 80:160, 100:150] = 1
    noise = np.random.default_rng(0).standard_normal((2, 1, 64, 64), np.float32)
    how, network = default_settings("edm", 4, "heun"), _wide()
    plain = ImageGenerator(deepcopy(network), None, "cpu", "fp32", fast=False).fields(tissues, frames, noise, how)
    fewer = ImageGenerator(network, None, "cpu", "fp32")
    found = fewer.fields(tissues, frames, noise, how)
    used = [layer for layer in _layers(fewer.denoiser) if layer.filters is not None]
    assert len(used) == len(_layers(fewer.denoiser)) > 4
    assert 0 < float((found - plain).abs().max()) < 1e-4 < float(plain.std())


@pytest.mark.parametrize(
    "ways", [{"precision": "bf16"}, {"precision": "fp32", "fast": False}, {"precision": "fp32", "compiled": True}]
)
def test_only_float32_that_is_not_compiled_has_it(ways: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 the transforms lose digits; compiled code has its own convolutions."""
    monkeypatch.setenv("CXX", sys.executable)  # compiles nothing here, but must exist
    assert not _layers(ImageGenerator(_wide(), None, "cpu", **ways).denoiser)


def test_small_networks_keep_their_bytes() -> None:
    assert not _layers(ImageGenerator(find_diffusion("edm-l64").load(), None, "cpu", "fp32").denoiser)
