"""Denoisers: preconditioning identities, SPADE, masked loss, every preset."""

from __future__ import annotations

import pytest
import torch

from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.diffusion.loss import denoising_loss
from echo_synth.diffusion.preconditioning import PRECONDS, EdmPrecond, VpPrecond
from echo_synth.diffusion.spade import Spade
from echo_synth.diffusion.unet import Modulations
from echo_synth.masked import sector_mean
from echo_synth.runs.description import build_model, describe_diffusion

SIGMA = torch.logspace(-2, 1.5, 20, dtype=torch.float64)


def _denoiser(name: str = "edm-l64", size: str = "tiny") -> Denoiser:
    module = build_model(describe_diffusion(name, size, None))
    assert isinstance(module, Denoiser)
    return module.eval()


@pytest.mark.parametrize("name", specs.DIFFUSION_MODELS)
def test_every_model_runs_once_at_size_tiny(name: str) -> None:
    d = _denoiser(name)
    side = d.network.resolution
    labels = torch.randint(0, 10, (1, side, side))
    with torch.no_grad():
        out = d(torch.randn(1, 1, side, side), torch.ones(1), d.modulate(labels))
    assert out.shape == (1, 1, side, side)
    assert torch.isfinite(out).all()


PRESETS = [
    pytest.param(name, size, marks=[pytest.mark.slow] if size in ("base", "paper") else [])
    for name in specs.DIFFUSION_MODELS
    for size in specs.diffusion_model(name).sizes
]


@pytest.mark.parametrize(("name", "size"), PRESETS)
def test_every_size_can_be_built(name: str, size: str) -> None:
    """On the meta device: shapes without memory, as large as the paper's. F's output has the shape of its input."""
    description = describe_diffusion(name, size, None)
    with torch.device("meta"):
        network = build_model(description).network.to("meta")  # the frequencies of VE have numbers
        grid = (description.resolution, description.resolution)
        onehot = torch.empty((2, description.network.classes, *grid))
        modulations = Modulations(network, onehot, {})
        out = network(torch.empty(2, 1, *grid), torch.empty(2), modulations)
    assert out.shape == (2, description.network.out_channels, *grid)
    assert out.shape[1] == (2 if description.precond == "iddpm" else 1)


def test_input_and_target_have_unit_variance_under_edm() -> None:
    p = EdmPrecond()
    c = p.scalings(SIGMA)
    assert torch.allclose(c.input**2 * (p.sigma_data**2 + SIGMA**2), torch.ones_like(SIGMA))
    # The target (y − c_skip (y + σ n)) / c_out for data of variance σ_d²
    variance = ((1 - c.skip) ** 2 * p.sigma_data**2 + c.skip**2 * SIGMA**2) / c.out**2
    assert torch.allclose(variance, torch.ones_like(SIGMA))
    assert torch.allclose(p.loss_weight(SIGMA) * c.out**2, torch.ones_like(SIGMA))


def test_limits_of_edm() -> None:
    c = EdmPrecond().scalings(torch.tensor([1e-8, 1e8], dtype=torch.float64))
    assert torch.allclose(c.skip, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-9)
    assert c.out[0] < 1e-7
    assert torch.isclose(c.out[1], torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["vp", "ve", "iddpm"])
def test_noise_prediction_is_weighted_to_unity(name: str) -> None:
    p = PRECONDS[name]()
    c = p.scalings(SIGMA)
    assert torch.allclose(p.loss_weight(SIGMA) * c.out**2, torch.ones_like(SIGMA))
    assert torch.equal(c.skip, torch.ones_like(SIGMA))


def test_vp_time_inverts_its_sigma() -> None:
    p = VpPrecond().law
    t = torch.linspace(0.001, 1, 50, dtype=torch.float64)
    assert torch.allclose(p.time(p.sigma(t)), t, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(PRECONDS))
def test_training_noise_stays_in_range(name: str) -> None:
    p = PRECONDS[name]()
    sigma = p.training_sigma(torch.linspace(1e-6, 1 - 1e-6, 1001))
    assert torch.isfinite(sigma).all()
    assert (sigma > 0).all()
    if name == "edm":
        assert sigma.log().mean() == pytest.approx(-1.2, abs=0.01)
        assert sigma.log().std() == pytest.approx(1.2, abs=0.02)


def test_spade_is_its_formula() -> None:
    spade = Spade(8, 10, 4)
    x, onehot = (
        torch.randn(2, 8, 6, 6),
        torch.nn.functional.one_hot(torch.randint(0, 10, (2, 6, 6)), 10).permute(0, 3, 1, 2).float(),
    )
    raw = spade.modulation(onehot)
    gamma, beta = raw.scale, raw.shift
    torch.nn.init.normal_(spade.norm.weight)
    torch.nn.init.normal_(spade.norm.bias)
    normalised = torch.nn.functional.group_norm(x, 2, spade.norm.weight, spade.norm.bias, 1e-5)
    assert torch.allclose(spade(x, raw), normalised * (1 + gamma) + beta, atol=1e-6)
    folded = spade.modulation(onehot, fold=True)
    assert torch.allclose(spade(x, folded), normalised * (1 + gamma) + beta, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edm-l64", "ve"])
def test_kept_modulations_change_no_number(name: str) -> None:
    d = _denoiser(name)
    for p in d.parameters():
        torch.nn.init.normal_(p, std=0.05)
    side = d.network.resolution
    labels = torch.randint(0, 10, (1, side, side)).expand(3, -1, -1)
    x, sigma = torch.randn(3, 1, side, side), torch.tensor([0.1, 1.0, 10.0])
    everything = d.modulate(labels)
    half = everything.nbytes // 2
    assert everything.nbytes == sum(d.network.modulation_bytes(n, 3, 4) for n in d.network.dec)
    with torch.no_grad():
        plain = d(x, sigma, d.modulate(labels, budget=0))
        some = d.modulate(labels, budget=half, fold=True)
        assert 0 < some.nbytes <= half
        shared = d.modulate(labels[:1], fold=True).take(torch.zeros(3, dtype=torch.long))
        for modulations in (everything, some, shared):
            assert torch.allclose(d(x, sigma, modulations), plain, atol=1e-4 * float(plain.abs().max()))


def test_the_map_guides_the_output() -> None:
    d = _denoiser()
    for p in d.parameters():
        torch.nn.init.normal_(p, std=0.05)
    x, sigma = torch.randn(1, 1, 64, 64), torch.ones(1)
    with torch.no_grad():
        one, two = (d(x, sigma, d.modulate(torch.full((1, 64, 64), k))) for k in (1, 6))
    assert not torch.allclose(one, two)


def test_the_loss_ignores_the_outside() -> None:
    d = _denoiser()
    clean = torch.zeros(1, 1, 64, 64)
    sector = torch.zeros(1, 1, 64, 64)
    sector[..., 20:40, 20:40] = 1
    labels, noise, u = torch.zeros(1, 64, 64, dtype=torch.long), torch.randn(1, 1, 64, 64), torch.tensor([0.5])
    captured: list[torch.Tensor] = []
    d.network.out_conv.register_full_backward_hook(lambda m, i, o: captured.append(o[0]))
    denoising_loss(d, clean, labels, sector, u, noise)[0].mean().backward()
    assert (captured[0][sector == 0] == 0).all()
    assert (captured[0][sector == 1] != 0).any()


def test_sector_mean_by_hand() -> None:
    values = torch.tensor([[[[1.0, 2.0], [3.0, 100.0]]], [[[5.0, 7.0], [9.0, 11.0]]]])
    sector = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    assert sector_mean(values, sector).tolist() == [2.0, 11.0]
    assert sector_mean(values, sector * 0).tolist() == [0.0, 0.0]
