"""The Gaussian latent of a standard KL-VAE: the twin that the paper's Γ latent is compared with. Float32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # exp() of anything outside overflows or vanishes in float32


def kl_gaussian(mean: Tensor, log_variance: Tensor, reverse: bool = False) -> Tensor:
    """KL( N(μ, σ²) ‖ N(0, 1) ) per element; `reverse`: KL( N(0, 1) ‖ N(μ, σ²) ).

    ½ (μ² + σ² − 1 − ln σ²), and ½ ((1 + μ²) / σ² − 1 + ln σ²).
    """
    with torch.autocast(mean.device.type, enabled=False):
        m, v = wide(mean), wide(log_variance)
        if reverse:
            return 0.5 * ((1 + m**2) * (-v).exp() - 1 + v)
        return 0.5 * (m**2 + v.exp() - 1 - v)


def sample_gaussian(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One reparameterised draw per element, μ + σ ε, float32+."""
    m = wide(mean)
    noise = torch.randn(m.shape, generator=generator, device=m.device, dtype=m.dtype)
    return m + (0.5 * wide(log_variance)).exp() * noise


def wide(x: Tensor) -> Tensor:
    """float64 stays; everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()
