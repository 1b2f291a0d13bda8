"""The Γ-VAE's loss: every pixel term lives in the sector and is normalised by its size, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from echo_synth.masked import sector_mean
from echo_synth.specs import VaeLossWeights
from echo_synth.vae.gamma import Direction
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import sample_each

Perceptual = Callable[[Tensor, Tensor, Tensor], Tensor]


def vae_loss(
    vae: GammaVAE,
    images: Tensor,
    sector: Tensor,
    weights: VaeLossWeights,
    warm: Tensor,
    generators: Sequence[torch.Generator | None],
    perceptual: Perceptual | None = None,
    direction: Direction = "prior-posterior",
) -> dict[str, Tensor]:
    """Terms of the loss and their weighted sum under "loss"; means over the batch, float32 scalars.

    Latents of several channels are not compared with the image: there is no term "latent". Their KL is the sum over channels.

    Each image's terms depend on that image and its generator alone, so neither micro-batches nor
    processes change the sum.

    Args:
        images: (N, 1, H, W) in [0, 1], zero outside the sector.
        sector: (N, 1, H, W), 0 or 1.
        warm: (N,) bool, whether the warm-up is over; the latent and perceptual terms start then.
        generators: one for each image.
        perceptual: in-sector distance of two image batches, (images, images, sector) to (N,), or None.
        direction: of the KL.
    """
    posterior = vae.posterior(images)
    small = vae.latent_mask(sector)
    z = sample_each(posterior, generators) * small
    reconstruction = vae.decode(z, sector)
    terms = {
        "reconstruction": sector_mean((reconstruction - images) ** 2, sector),
        "kl": sector_mean(posterior.kl(direction).sum(1, keepdim=True), small),
    }
    loss = weights.reconstruction * terms["reconstruction"] + weights.kl * terms["kl"]
    late = torch.zeros_like(loss)
    if vae.latent_channels == 1:
        target = F.interpolate(images, size=z.shape[-2:], mode="area")
        terms["latent"] = sector_mean((z - target) ** 2, small)
        late = weights.latent * terms["latent"]
    if perceptual is not None and bool(warm.any()):
        terms["perceptual"] = perceptual(reconstruction, images, sector)
        late = late + weights.perceptual * terms["perceptual"]
    terms["loss"] = loss + torch.where(warm, late, 0.0)
    return {name: value.mean() for name, value in terms.items()}


def finishing_loss(
    vae: GammaVAE,
    images: Tensor,
    sector: Tensor,
    weights: VaeLossWeights,
    perceptual: Perceptual | None = None,
) -> dict[str, Tensor]:
    """Terms that depend on the decoder, for E[z] instead of a draw, and their weighted sum; arguments as `vae_loss`.

    Generation decodes means, so a decoder that was trained on draws removes a noise that is not there: it blurs.
    The encoder gets no gradient.
    """
    with torch.no_grad():
        latent = vae.latent(images, sector)
    reconstruction = vae.decode(latent, sector)
    terms = {"reconstruction": sector_mean((reconstruction - images) ** 2, sector)}
    terms["loss"] = weights.reconstruction * terms["reconstruction"]
    if perceptual is not None:
        terms["perceptual"] = perceptual(reconstruction, images, sector)
        terms["loss"] = terms["loss"] + weights.perceptual * terms["perceptual"]
    return {name: value.mean() for name, value in terms.items()}


@torch.no_grad()
def reconstruct(vae: GammaVAE, images: Tensor, sector: Tensor) -> Tensor:
    """Decoded E[z], clipped to [0, 1]; what generation will see of these images."""
    return vae.decode(vae.latent(images, sector), sector).clamp(0, 1)
