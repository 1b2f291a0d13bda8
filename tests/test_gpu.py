"""What only a GPU can show: the same images and losses as on the CPU, by every way of drawing. Skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.diffusion.loss import denoising_loss
from echo_synth.evaluation.map_batches import first_maps
from echo_synth.generation.engine import default_settings
from echo_synth.generation.sources import choose_model
from echo_synth.runs.description import build_model, describe_diffusion
from nnunet_plugin.muon import Muon

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BUNDLED = specs.root() / "bundled"


def _images(device: str, precision: str, compiled: bool = False) -> np.ndarray:
    """Four of the bundled weights."""
    chosen = choose_model("edm-l64", BUNDLED / "edm-l64", None, device, precision)
    settings = default_settings(chosen.spec.precond, 10, "heun")
    maps = first_maps(open_maps(BUNDLED / "maps"), 4)
    return chosen.load(compiled=compiled).draw(*maps, 0, range(4), settings).astype(int)


@pytest.mark.parametrize(
    ("precision", "compiled", "most", "mean"),
    [("fp32", False, 3, 0.1), ("bf16", False, 60, 2.0), ("fp16", False, 30, 1.0), ("bf16", True, 60, 2.0)],
)
def test_images_are_those_of_the_cpu(precision: str, compiled: bool, most: int, mean: float) -> None:
    off = np.abs(_images("cuda", precision, compiled) - _images("cpu", "fp32"))
    assert off.max() <= most
    assert off.mean() <= mean


@pytest.mark.parametrize("name", ["sdm", "ve", "vp", "edm", "edm-l128", "edm-l64"])
def test_losses_and_gradients_are_those_of_the_cpu(name: str) -> None:
    description = describe_diffusion(name, "tiny", None)
    side, rng = description.resolution, torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 1, side, side, generator=rng) for _ in range(2))
    labels, uniform = torch.randint(0, 10, (2, side, side), generator=rng), torch.tensor([0.3, 0.7])
    found = []
    for device in ("cpu", "cuda"):
        model = build_model(description).to(device).eval()  # without dropout, whose masks differ
        given = (x.to(device) for x in (clean.clamp(-1, 1), labels, torch.ones_like(clean), uniform, noise))
        loss = denoising_loss(model, *given)[0].mean()  # type: ignore[arg-type]
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        found.append((float(loss), float(norm)))
    assert found[1] == pytest.approx(found[0], rel=2e-2)


def test_a_step_of_muon_is_that_of_the_cpu() -> None:
    rng, rate, moved = torch.Generator().manual_seed(0), 0.01, []
    weights = [torch.randn(s, generator=rng) for s in [(16, 40), (40, 16), (16, 8, 3, 3), (16,)]]
    gradients = [torch.randn(w.shape, generator=rng) for w in weights]
    for device in ("cpu", "cuda"):
        parameters = [torch.nn.Parameter(w.to(device)) for w in weights]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.to(device)
        Muon(parameters, rate).step()
        moved.append([(p.detach().cpu() - w) / rate for p, w in zip(parameters, weights, strict=True)])
    for here, there in zip(*moved, strict=True):
        assert torch.allclose(here, there, atol=0.02)  # its iterations are in bf16 there
