"""The denoising loss: each formulation's weighting, inside the sector only."""

from __future__ import annotations

import torch
from torch import Tensor

from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.masked import sector_mean


def denoising_loss(
    denoiser: Denoiser, clean: Tensor, labels: Tensor, sector: Tensor, uniform: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """λ(σ) |D(clean + σ n; σ, m) − clean|², averaged over in-sector pixels, per image (Karras 2022, eq. 108).

    Args:
        clean: (N, C, R, R) in [−1, 1].
        labels: (N, R, R) semantic classes.
        sector: (N, 1, R, R), 0 or 1.
        uniform: (N,) in (0, 1); becomes σ.
        noise: unit normal, like `clean`.

    Returns:
        that loss, (N,) float32; the denoised fields, (N, C, R, R) float32; and their noise levels σ, (N,) float32.
    """
    sigma = denoiser.precond.training_sigma(uniform.float())
    level = sigma.reshape(-1, 1, 1, 1)
    modulations = denoiser.modulate(labels)
    denoised = denoiser(clean + level * noise, sigma, modulations)
    with torch.autocast(clean.device.type, enabled=False):
        denoised = denoised.float()
        error = denoiser.precond.loss_weight(level) * (denoised - clean) ** 2
        return sector_mean(error, sector), denoised, sigma
