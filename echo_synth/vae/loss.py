"""The Γ-VAE's loss: every pixel term lives in the sector and is normalised by its size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from echo_synth.specs import VaeLossWeights
from echo_synth.vae.gamma import Direction
from echo_synth.vae.network import GammaVAE

Perceptual = Callable[[Tensor, Tensor, Tensor], Tensor]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is 1, divided by the number of such pixels (at least 1); float32.

    Pixels outside have exactly zero gradient. Both (N, 1, H, W).
    """
    return (values.float() * mask).sum() / mask.sum().clamp_min(1)


def vae_loss(
    vae: GammaVAE,
    images: Tensor,
    sector: Tensor,
    weights: VaeLossWeights,
    warm: bool,
    generator: torch.Generator | None = None,
    perceptual: Perceptual | None = None,
    direction: Direction = "prior-posterior",
) -> dict[str, Tensor]:
    """Terms of the loss and their weighted sum under "loss"; scalars, float32.

    Args:
        images: (N, 1, H, W) in [0, 1], zero outside the sector.
        sector: (N, 1, H, W), 0 or 1.
        warm: whether the warm-up is over; the latent and perceptual terms start then.
        perceptual: in-sector distance of two image batches, (images, images, sector) to (N,), or None.
        direction: of the KL.
    """
    posterior = vae.posterior(images)
    small = vae.latent_mask(sector)
    z = posterior.sample(generator) * small
    reconstruction = vae.decode(z, sector)
    target = F.interpolate(images, size=z.shape[-2:], mode="area")
    terms = {
        "reconstruction": masked_mean((reconstruction - images) ** 2, sector),
        "latent": masked_mean((z - target) ** 2, small),
        "kl": masked_mean(posterior.kl(direction), small),
    }
    loss = weights.reconstruction * terms["reconstruction"] + weights.kl * terms["kl"]
    if warm:
        loss = loss + weights.latent * terms["latent"]
        if perceptual is not None:
            terms["perceptual"] = perceptual(reconstruction, images, sector).mean()
            loss = loss + weights.perceptual * terms["perceptual"]
    return terms | {"loss": loss}


@torch.no_grad()
def reconstruct(vae: GammaVAE, images: Tensor, sector: Tensor) -> Tensor:
    """Decoded E[z], clipped to [0, 1]; what generation will see of these images."""
    return vae.decode(vae.latent(images, sector), sector).clamp(0, 1)
