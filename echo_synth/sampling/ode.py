"""The probability-flow ODE that all solvers share (Karras et al. 2022, eq. 4 and 81)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from echo_synth.sampling.schedules import Round, Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Churn:
    """Stochasticity (EDM, algorithm 2). amount 0 is the deterministic ODE."""

    amount: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = float("inf")
    noise: float = 1.0


@dataclass(frozen=True)
class Trajectory:
    """What a solver integrates along.

    Attributes:
        denoise: D(x, σ), which takes nearly all of the time.
        schedule: σ(t), s(t).
        times: t_0 > … > t_N = 0, float64.
        round_sigma: nearest noise level that the network knows.
        churn: stochasticity of one-step solvers.
        draw: fresh unit normal noise of x's shape and dtype, for stochastic solvers.
    """

    denoise: Denoise
    schedule: Schedule
    times: Tensor
    round_sigma: Round
    churn: Churn
    draw: Draw = torch.randn_like

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def slope(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt at (x, t): one network evaluation."""
        s = self.schedule
        sigma, scale = s.sigma(t), s.scale(t)
        rate = s.sigma_derivative(t)
        denoised = self.denoise(x / scale, sigma)
        return (rate / sigma + s.scale_derivative(t) / scale) * x - rate * scale / sigma * denoised

    def add_noise(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Step back to a higher noise level before a step, if the churn asks for it at this σ."""
        s, churn = self.schedule, self.churn
        sigma = s.sigma(t)
        if churn.amount <= 0 or not churn.sigma_min <= float(sigma) <= churn.sigma_max:
            return x, t
        gamma = min(churn.amount / self.steps, 2**0.5 - 1)
        raised = s.time(self.round_sigma(sigma * (1 + gamma)))
        spread = (s.sigma(raised) ** 2 - sigma**2).clamp_min(0).sqrt()
        x = s.scale(raised) / s.scale(t) * x + spread * s.scale(raised) * churn.noise * self.draw(x)
        return x, raised
