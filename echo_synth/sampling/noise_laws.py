"""The noise levels of the published formulations, once: VP, VE, iDDPM and EDM (Karras et al. 2022, table 1).

Samplers place their levels by these laws, and training draws its levels from them. σ is in units of the
clean data, which lie in [−1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

VP_EPSILON = 1e-3  # t at which sampling ends


@dataclass(frozen=True)
class VariancePreserving:
    """σ(t)² = exp(β_d t² / 2 + β_min t) − 1 on t in [0, 1] (Song et al. 2021); tensors of any float dtype and shape."""

    beta_d: float = 19.9
    beta_min: float = 0.1

    @classmethod
    def spanning(cls, sigma_min: float, sigma_max: float) -> VariancePreserving:
        """The law with σ(`VP_EPSILON`) = sigma_min and σ(1) = sigma_max (EDM, appendix C.1)."""
        low, high = log(sigma_min**2 + 1), log(sigma_max**2 + 1)
        beta_d = 2 * (low / VP_EPSILON - high) / (VP_EPSILON - 1)
        return cls(beta_d, high - 0.5 * beta_d)

    def sigma(self, t: Tensor) -> Tensor:
        """σ(t)."""
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).expm1().sqrt()

    def sigma_derivative(self, t: Tensor) -> Tensor:
        """dσ/dt."""
        s = self.sigma(t)
        return 0.5 * (self.beta_min + self.beta_d * t) * (s + 1 / s)

    def time(self, sigma: Tensor) -> Tensor:
        """t(σ), the inverse of `sigma`."""
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def sigma_at(self, t: float) -> float:
        """σ(t) of a number."""
        return float(self.sigma(torch.tensor(t, dtype=torch.float64, device="cpu")))


def geometric(start: float, end: float, share: Tensor) -> Tensor:
    """Variance exploding: σ from `start` to `end` in equal ratios; `share` in [0, 1], any shape and float dtype."""
    return start * (end / start) ** share


def power_spaced(start: float, end: float, share: Tensor, rho: float) -> Tensor:
    """EDM: σ^(1/ρ) from `start` to `end` in equal steps (eq. 5); `share` in [0, 1], any shape and float dtype."""
    a, b = start ** (1 / rho), end ** (1 / rho)
    return (a + share * (b - a)) ** rho


def iddpm_levels(levels: int = 1000, c1: float = 0.001, c2: float = 0.008) -> Tensor:
    """iDDPM's cosine schedule (Nichol & Dhariwal 2021): u_0 > … > u_M = 0, (levels + 1,) float64.

    On the CPU, whatever torch's default device is: the numbers decide how networks are built.
    """
    # float32 here is the published schedule: networks were trained at the levels it gives, which
    # differ from the float64 ones in the seventh digit.
    index = torch.arange(levels + 1, device="cpu")
    alpha_bar = (0.5 * pi * index / levels / (c2 + 1)).sin() ** 2
    u = torch.zeros(levels + 1, dtype=torch.float64, device="cpu")
    for j in range(levels, 0, -1):
        u[j - 1] = ((u[j] ** 2 + 1) / (alpha_bar[j - 1] / alpha_bar[j]).clamp_min(c1) - 1).sqrt()
    return u


# Where sampling starts and ends in each formulation, (σ_min, σ_max).
SIGMA_RANGES: dict[str, tuple[float, float]] = {
    "vp": (VariancePreserving().sigma_at(VP_EPSILON), VariancePreserving().sigma_at(1.0)),
    "ve": (0.02, 100.0),
    "iddpm": (0.002, 81.0),
    "edm": (0.002, 80.0),
}
