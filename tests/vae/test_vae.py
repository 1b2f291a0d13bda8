"""The Γ-VAE network and its masked loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from echo_synth import specs
from echo_synth.masked import sector_mean
from echo_synth.runs.description import build_model, describe_vae
from echo_synth.specs import VaeLossWeights
from echo_synth.vae.gamma import kl_to_prior
from echo_synth.vae.gaussian import kl_gaussian, sample_gaussian
from echo_synth.vae.loss import reconstruct, vae_loss
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import POSTERIOR_FAMILIES, GammaPosterior, PosteriorFamily


def _vae(name: str = "gamma-vae-64", posterior: PosteriorFamily = "gamma") -> GammaVAE:
    module = build_model(describe_vae(name, "tiny", posterior), seed=1)
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


def test_the_layer_between_latent_and_decoder_is_a_convolution_on_any_number_of_threads() -> None:
    layer, z = _vae().from_latent, torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(layer(z))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)
    assert torch.allclose(found[0], F.conv2d(z, layer.weight, layer.bias), atol=1e-6)


@pytest.mark.parametrize("size", ["tiny", "light", "small", "paper"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_new_posterior_lies_about_the_prior(size: str, channels: int) -> None:
    vae = build_model(describe_vae("gamma-vae-64", size, latent_channels=channels), seed=1)
    assert isinstance(vae, GammaVAE)
    with torch.no_grad():
        posterior = vae.posterior(_batch()[0])
    assert isinstance(posterior, GammaPosterior)
    assert (posterior.mean - 3.75 / 10.8).abs().max() < 0.2
    assert posterior.kl("prior-posterior").max() < 0.5


def test_the_latent_is_deterministic_and_the_sample_is_not() -> None:
    vae, (images, sector) = _vae(), _batch()
    assert torch.equal(vae.latent(images, sector), vae.latent(images, sector))
    posterior, g = vae.posterior(images), torch.Generator().manual_seed(0)
    assert not torch.equal(posterior.sample(g), posterior.sample(g))


def test_the_posterior_scales_the_prior() -> None:
    vae, (images, _) = _vae(), _batch()
    a, b = vae.encode(images)
    posterior = vae.posterior(images)
    assert isinstance(posterior, GammaPosterior)
    assert torch.allclose(posterior.alpha, 3.75 * F.softplus(10 * a) / 10, rtol=1e-3, atol=1e-6)
    assert torch.allclose(posterior.beta, 10.8 * F.softplus(10 * b) / 10, rtol=1e-4)


def _generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


LATE, EARLY = torch.tensor([True, True]), torch.tensor([False, False])


@pytest.mark.parametrize("posterior", ["gamma", "gaussian"])
def test_terms_of_the_loss_by_hand(posterior: PosteriorFamily) -> None:
    vae, (images, sector) = _vae(posterior=posterior), _batch()
    sector[1, :, :20] = 0  # sectors of different sizes: each image is normalised by its own
    images = images * sector
    weights = VaeLossWeights(reconstruction=10.0, latent=0.5, kl=0.25)
    terms = vae_loss(vae, images, sector, weights, LATE, _generators(3, 4))
    rec = lat = kl = torch.zeros(())
    for i, g in enumerate(_generators(3, 4)):
        x, m = images[i : i + 1], sector[i : i + 1]
        small = vae.latent_mask(m)
        q = vae.posterior(x)
        z = q.sample(g) * small
        rec = rec + ((vae.decode(z, m) - x) ** 2 * m).sum() / m.sum() / 2
        lat = lat + ((z - F.avg_pool2d(x, 4)) ** 2 * small).sum() / small.sum() / 2
        kl = kl + (q.kl("prior-posterior") * small).sum() / small.sum() / 2
    assert torch.allclose(terms["reconstruction"], rec, rtol=1e-4)
    assert torch.allclose(terms["latent"], lat, rtol=1e-4)
    assert torch.allclose(terms["kl"], kl, rtol=1e-4)
    assert torch.allclose(terms["loss"], 10 * rec + 0.5 * lat + 0.25 * kl, rtol=1e-4)


def test_warm_up_is_counted_image_by_image() -> None:
    vae, (images, sector) = _vae(), _batch()
    early = vae_loss(vae, images, sector, VaeLossWeights(), EARLY, _generators(3, 4))
    assert torch.allclose(early["loss"], 10 * early["reconstruction"] + 1e-3 * early["kl"])
    mixed = vae_loss(vae, images, sector, VaeLossWeights(latent=1.0), torch.tensor([False, True]), _generators(3, 4))
    second = vae_loss(vae, images[1:], sector[1:], VaeLossWeights(latent=1.0), LATE[:1], _generators(4))
    assert torch.allclose(mixed["loss"], early["loss"] + second["latent"] / 2, rtol=1e-4)


def test_a_batch_is_the_mean_of_its_images() -> None:
    """So that micro-batches and processes change nothing but rounding."""
    vae, (images, sector) = _vae(), _batch()
    whole = vae_loss(vae, images, sector, VaeLossWeights(), LATE, _generators(3, 4))["loss"]
    parts = [
        vae_loss(vae, images[i : i + 1], sector[i : i + 1], VaeLossWeights(), LATE[:1], _generators(3 + i))["loss"]
        for i in range(2)
    ]
    assert torch.allclose(whole, sum(parts) / 2, rtol=1e-5)


def test_pixels_outside_have_no_gradient() -> None:
    values = torch.randn(1, 1, 8, 8, requires_grad=True)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1
    sector_mean(values**2, mask).sum().backward()
    assert values.grad is not None
    assert (values.grad[mask == 0] == 0).all()
    assert (values.grad[mask == 1] != 0).all()


def test_the_decoder_gets_no_gradient_from_outside() -> None:
    vae, (images, sector) = _vae(), _batch()
    caught: list[torch.Tensor] = []
    vae.decoder[-1].register_full_backward_hook(lambda m, i, o: caught.append(o[0]))
    vae_loss(vae, images, sector, VaeLossWeights(), LATE, _generators(3, 4))["loss"].backward()
    assert (caught[0][sector == 0] == 0).all()
    assert (caught[0][sector == 1] != 0).any()


def test_the_kl_survives_bf16_autocast() -> None:
    vae, (images, _) = _vae(), _batch()
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.posterior(images)
        kl = posterior.kl("prior-posterior")
    assert isinstance(posterior, GammaPosterior)
    assert kl.dtype == torch.float32
    truth = kl_to_prior(posterior.alpha.double(), posterior.beta.double(), 3.75, 10.8)
    assert torch.allclose(kl.double(), truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_twins_kl_is_that_of_torch_distributions(reverse: bool) -> None:
    from torch.distributions import Normal, kl_divergence

    mean, log_variance = torch.randn(50, dtype=torch.float64) * 3, torch.randn(50, dtype=torch.float64) * 3
    q, p = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(50, dtype=torch.float64), 1.0)
    expected = kl_divergence(p, q) if reverse else kl_divergence(q, p)
    assert torch.allclose(kl_gaussian(mean, log_variance, reverse), expected, rtol=1e-9)


def test_the_twins_samples_have_the_right_moments() -> None:
    z = sample_gaussian(torch.full((200_000,), 0.7), torch.full((200_000,), -2.0), torch.Generator().manual_seed(0))
    assert float(z.mean()) == pytest.approx(0.7, abs=0.005)
    assert float(z.var()) == pytest.approx(float(torch.tensor(-2.0).exp()), rel=0.02)


@pytest.mark.slow
def test_it_learns_four_images() -> None:
    vae, (images, sector) = _vae(), _batch()
    smooth = F.avg_pool2d(images, 9, 1, 4) * sector
    optimizer = torch.optim.AdamW(vae.parameters(), 2e-3)
    before = float(((reconstruct(vae, smooth, sector) - smooth) ** 2).mean())
    for step in range(60):
        loss = vae_loss(vae, smooth, sector, VaeLossWeights(), EARLY, _generators(step, step + 1000))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = float(((reconstruct(vae, smooth, sector) - smooth) ** 2).mean())
    assert after < before / 4


def test_weights_survive_fp16_packing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from echo_synth.runs.tensors import load_weights, save_tensors

    vae = _vae()
    save_tensors(tmp_path / "w.safetensors", {k: v.half() for k, v in vae.state_dict().items()})
    other = _vae()
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(vae.parameters(), other.parameters(), strict=True))


PRESETS = [(name, size) for name in specs.VAE_MODELS for size in specs.vae_model(name).sizes]


@pytest.mark.parametrize("posterior", POSTERIOR_FAMILIES)
@pytest.mark.parametrize(("name", "size"), PRESETS)
def test_every_size_can_be_built(name: str, size: str, posterior: PosteriorFamily) -> None:
    """On the meta device: shapes without memory, as large as the paper's."""
    description = describe_vae(name, size, posterior)
    with torch.device("meta"):
        vae = build_model(description)
        latent = vae.latent(torch.empty(2, 1, 256, 256), torch.empty(2, 1, 256, 256))
        assert latent.shape == (2, 1, description.latent_resolution, description.latent_resolution)
        assert vae.decode(latent, torch.empty(2, 1, 256, 256)).shape == (2, 1, 256, 256)
