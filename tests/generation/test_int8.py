"""Convolutions in 8 bits: the integers' own arithmetic, its error bound, and images that stay what they were."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth import device, specs
from echo_synth.data.maps import open_maps
from echo_synth.device import drawing_precision
from echo_synth.errors import RunError, SpecError
from echo_synth.generation.engine import ImageGenerator, default_settings
from echo_synth.generation.int8 import Int8Conv2d, round_convolutions
from echo_synth.runs.find import find_diffusion


def _able() -> bool:
    try:
        return bool(drawing_precision("int8", "cpu"))
    except RunError:
        return False


needs_vnni = pytest.mark.skipif(not _able(), reason="needs a CPU with VNNI")


def _conv(kernel: int, inputs: int = 64, outputs: int = 96) -> nn.Conv2d:
    torch.manual_seed(kernel)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _images(kind: str) -> Tensor:
    x = torch.randn(3, 64, 12, 20, generator=torch.Generator().manual_seed(0))
    x = {"both signs": x * 3, "activated": F.silu(x), "positive": x.abs() + 2, "negative": -x.abs() - 2}[kind]
    return (x * torch.tensor([1.0, 0.01, 100.0]).reshape(-1, 1, 1, 1)).to(memory_format=torch.channels_last)


def _by_hand(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The formulas in float64, on whole numbers."""
    scale = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    weight = (conv.weight.detach() / scale).round().double() * scale.double()
    out = []
    for image in x.double():
        low, high = min(float(image.min()), 0.0), max(float(image.max()), 0.0)
        step = (high - low) / 255
        zero = round(-low / step)
        whole = torch.floor(image / step + zero + 0.5).clamp(0, 255) - zero
        out.append(F.conv2d(whole[None] * step, weight, conv.bias.detach().double(), padding=conv.padding))
    return torch.cat(out)


@needs_vnni
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", ["both signs", "activated", "positive", "negative"])
def test_it_is_the_arithmetic_of_integers(kernel: int, kind: str) -> None:
    conv, x = _conv(kernel), _images(kind)
    found, meant = Int8Conv2d(conv)(x), _by_hand(conv, x)
    for i in range(len(x)):
        size = float(meant[i].abs().max())
        # A value half-way between two steps may be rounded either way in float32: one step of one input.
        assert float((found[i] - meant[i]).abs().max()) < 4e-3 * size
        assert float((found[i] - meant[i]).abs().median()) < 1e-5 * size


@needs_vnni
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_error_keeps_to_its_bound(kernel: int) -> None:
    conv, x = _conv(kernel), _images("both signs")
    with torch.no_grad():
        exact, found = conv(x), Int8Conv2d(conv)(x)
        ones = nn.Conv2d(64, 1, kernel, padding=kernel // 2, bias=False)
        ones.weight.fill_(1)
        for i, image in enumerate(x.split(1)):
            step = float(image.max() - image.min()) / 255
            of_inputs = 0.51 * step * conv.weight.abs().sum((1, 2, 3)).reshape(-1, 1, 1)
            of_weights = 0.51 * conv.weight.abs().amax((1, 2, 3)).reshape(-1, 1, 1) / 127 * ones(image.abs() + step)[0]
            assert bool(((exact[i] - found[i]).abs() <= of_inputs + of_weights).all())


@needs_vnni
def test_an_image_does_not_depend_on_its_batch() -> None:
    layer, x = Int8Conv2d(_conv(3)), _images("activated").bfloat16()
    together = layer(x)
    assert together.dtype == torch.bfloat16
    assert all(torch.equal(layer(x[i : i + 1])[0], together[i]) for i in range(len(x)))


@needs_vnni
def test_values_that_are_not_finite_are_not_hidden() -> None:
    conv, x = _conv(3), torch.zeros(3, 64, 4, 4)
    x[0, 0, 0, 0], x[1, 5, 2, 2] = torch.nan, torch.inf
    found = Int8Conv2d(conv)(x)
    assert found[:2].isnan().all()
    assert torch.allclose(found[2], conv.bias.detach().reshape(-1, 1, 1).expand(-1, 4, 4), atol=1e-6)  # of zeros


@needs_vnni
def test_images_stay_what_they_were() -> None:
    """Bundled EDM-L64: in 8 bits, the rest in float32, near float32 and not the same."""
    folder = open_maps(specs.root() / "bundled/maps")
    tissues = np.stack([folder.read(m) for m in folder.index["map"][:2]])
    how = default_settings("edm", 4, "dpmpp-2m")
    noise = np.random.default_rng(0).standard_normal((2, 1, 64, 64), np.float32)
    fields = {}
    for precision in ("fp32", "int8-fp32"):
        generator = ImageGenerator(find_diffusion("edm-l64").load(), None, "cpu", precision)
        fields[precision] = generator.fields(tissues, np.zeros(2, np.uint8), noise, how)
        count = sum(isinstance(m, Int8Conv2d) for m in generator.denoiser.modules())
        assert count == (0 if precision == "fp32" else 23)
    difference = (fields["fp32"] - fields["int8-fp32"]).square().mean().sqrt()  # of fields in [-1, 1]
    assert 1e-4 < float(difference) < 0.02
    deepcopy(generator.denoiser)


@needs_vnni
@pytest.mark.parametrize("rest", ["bf16", "fp32"])
def test_what_the_rest_computes_in_is_part_of_the_name(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or images of two kinds of CPU would complete one dataset."""
    monkeypatch.setattr(device, "_cpu_has", lambda *names: "avx512_vnni" in names or rest == "bf16")
    assert drawing_precision("int8", "cpu") == f"int8-{rest}"
    assert drawing_precision(f"int8-{rest}", "cpu") == f"int8-{rest}"


def test_what_cannot_be_in_8_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_has", lambda *_names: False)
    with pytest.raises(RunError, match="no VNNI instructions; use bf16 or fp32"):
        drawing_precision("int8", "cpu")
    with pytest.raises(RunError, match="int8: for CPUs only, found --device cuda"):
        drawing_precision("int8", "cuda")
    with pytest.raises(RunError, match="no VNNI instructions"):
        ImageGenerator(find_diffusion("edm-l64").load(), None, "cpu", "int8-fp32")
    with pytest.raises(SpecError, match="leave --compile out"):
        ImageGenerator(find_diffusion("edm-l64").load(), None, "cpu", "int8-fp32", compiled=True)


def test_small_convolutions_and_those_of_spade_stay() -> None:
    network = find_diffusion("edm-l64").load().network
    kept = {name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    round_convolutions(network)
    count = sum(isinstance(m, Int8Conv2d) for m in network.modules())
    left = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert count == len(kept) - len(left) > 0
    assert all(m.in_channels < 64 or "mlp_" in name for name, m in left.items())
