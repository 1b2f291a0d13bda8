"""The Γ-VAE network and its masked loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from echo_synth import registry, specs
from echo_synth.specs import VaeLossWeights
from echo_synth.vae.loss import masked_mean, reconstruct, vae_loss
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import GammaPosterior


def _vae(name: str = "gamma-vae-64") -> GammaVAE:
    module = registry.build(registry.describe_vae(name, "tiny"), seed=1)
    assert isinstance(module, GammaVAE)
    return module


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    sector = torch.zeros(2, 1, 64, 64)
    sector[..., 8:56, 8:56] = 1
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * sector, sector


@pytest.mark.parametrize(("name", "factor"), [("gamma-vae-64", 4), ("gamma-vae-128", 2)])
def test_grids_and_background(name: str, factor: int) -> None:
    vae, (images, sector) = _vae(name), _batch()
    z = vae.latent(images, sector)
    assert z.shape == (2, 1, 64 // factor, 64 // factor)
    assert (z[vae.latent_mask(sector) == 0] == 0).all()
    assert (z[vae.latent_mask(sector) == 1] > 0).all()
    decoded = vae.decode(z, sector)
    assert decoded.shape == images.shape
    assert (decoded[sector == 0] == 0).all()


def test_the_latent_is_deterministic_and_the_sample_is_not() -> None:
    vae, (images, sector) = _vae(), _batch()
    assert torch.equal(vae.latent(images, sector), vae.latent(images, sector))
    g = torch.Generator().manual_seed(0)
    assert not torch.equal(vae.sample(images, sector, g), vae.sample(images, sector, g))


def test_the_posterior_scales_the_prior() -> None:
    vae, (images, _) = _vae(), _batch()
    a, b = vae.encode(images)
    posterior = vae.posterior(images)
    assert isinstance(posterior, GammaPosterior)
    assert torch.allclose(posterior.alpha, 3.75 * F.softplus(10 * a) / 10, rtol=1e-4)
    assert torch.allclose(posterior.beta, 10.8 * F.softplus(10 * b) / 10, rtol=1e-4)


def test_terms_of_the_loss_by_hand() -> None:
    vae, (images, sector) = _vae(), _batch()
    weights = VaeLossWeights(reconstruction=10.0, latent=0.5, kl=0.25)
    terms = vae_loss(vae, images, sector, weights, True, torch.Generator().manual_seed(3))
    z = vae.sample(images, sector, torch.Generator().manual_seed(3))
    small = vae.latent_mask(sector)
    rec = ((vae.decode(z, sector) - images) ** 2 * sector).sum() / sector.sum()
    lat = ((z - F.avg_pool2d(images, 4)) ** 2 * small).sum() / small.sum()
    assert torch.allclose(terms["reconstruction"], rec)
    assert torch.allclose(terms["latent"], lat)
    assert torch.allclose(terms["loss"], 10 * rec + 0.5 * lat + 0.25 * terms["kl"])


def test_warm_up_leaves_the_latent_term_out() -> None:
    vae, (images, sector) = _vae(), _batch()
    terms = vae_loss(vae, images, sector, VaeLossWeights(), False, torch.Generator().manual_seed(3))
    assert torch.allclose(terms["loss"], 10 * terms["reconstruction"] + 1e-3 * terms["kl"])


def test_pixels_outside_have_no_gradient() -> None:
    values = torch.randn(1, 1, 8, 8, requires_grad=True)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1
    masked_mean(values**2, mask).backward()
    assert values.grad is not None
    assert (values.grad[mask == 0] == 0).all()
    assert (values.grad[mask == 1] != 0).all()


def test_it_learns_four_images() -> None:
    vae, (images, sector) = _vae(), _batch()
    smooth = F.avg_pool2d(images, 9, 1, 4) * sector
    optimizer = torch.optim.AdamW(vae.parameters(), 2e-3)
    before = float(((reconstruct(vae, smooth, sector) - smooth) ** 2).mean())
    for step in range(60):
        loss = vae_loss(vae, smooth, sector, VaeLossWeights(), False, torch.Generator().manual_seed(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = float(((reconstruct(vae, smooth, sector) - smooth) ** 2).mean())
    assert after < before / 4


def test_weights_survive_fp16_packing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from echo_synth.training.checkpoint import load_weights, save_tensors

    vae = _vae()
    save_tensors(tmp_path / "w.safetensors", {k: v.half() for k, v in vae.state_dict().items()})
    other = _vae()
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(vae.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", specs.VAE_MODELS)
@pytest.mark.parametrize("size", specs.SIZES)
def test_every_size_builds(name: str, size: str) -> None:
    with torch.device("meta"):
        spec = specs.size_of(specs.vae_model(name), size)
        GammaVAE(**spec.model_dump())
