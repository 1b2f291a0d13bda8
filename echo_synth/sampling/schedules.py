"""Time, noise level and scale along a trajectory, and the levels that a sampler visits (Karras et al. 2022, table 1).

All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from echo_synth.sampling.noise_laws import (
    SIGMA_RANGES,
    VP_EPSILON,
    VariancePreserving,
    geometric,
    iddpm_levels,
    power_spaced,
)

Law = Callable[[Tensor], Tensor]
Round = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """σ(t), its derivative and inverse, and the scale s(t) with its derivative; on float64 tensors of any shape."""

    sigma: Law
    sigma_derivative: Law
    time: Law
    scale: Law
    scale_derivative: Law


def make_schedule(schedule: str, scaling: str, sigma_min: float, sigma_max: float) -> Schedule:
    """The named σ(t) and s(t). For "vp", β_d and β_min follow from the σ range (EDM, appendix C.1).

    Args:
        schedule: linear (σ = t), ve (σ² = t) or vp.
        scaling: none (s = 1) or vp (s² = 1 / (1 + σ²)).
        sigma_min, sigma_max: the range that is sampled, > 0.

    Raises:
        ValueError: an unknown name.
    """
    sigma, derivative, time = _time_functions(schedule, sigma_min, sigma_max)
    if scaling == "none":
        return Schedule(sigma, derivative, time, torch.ones_like, torch.zeros_like)
    if scaling != "vp":
        raise ValueError(f"scaling '{scaling}': expected none or vp")

    def scale(t: Tensor) -> Tensor:
        return 1 / (1 + sigma(t) ** 2).sqrt()

    return Schedule(sigma, derivative, time, scale, lambda t: -sigma(t) * derivative(t) * scale(t) ** 3)


def _time_functions(schedule: str, sigma_min: float, sigma_max: float) -> tuple[Law, Law, Law]:
    """σ(t), σ̇(t) and t(σ)."""
    if schedule == "linear":
        return (lambda t: t), (lambda t: torch.ones_like(t)), (lambda s: s)
    if schedule == "ve":
        return (lambda t: t.sqrt()), (lambda t: 0.5 / t.sqrt()), (lambda s: s**2)
    if schedule == "vp":
        law = VariancePreserving.spanning(sigma_min, sigma_max)
        return law.sigma, law.sigma_derivative, law.time
    raise ValueError(f"schedule '{schedule}': expected linear, ve or vp")


def noise_levels(discretization: str, steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """σ_0 > … > σ_{steps−1}, (steps,) float64; the final σ = 0 is not included.

    Args:
        discretization: edm, ve, vp or iddpm.
        steps: at least 1; iddpm has 1000 different levels at most and repeats them beyond.
        sigma_min, sigma_max: the range, > 0; see `clip_sigmas`. iddpm begins at the level nearest to sigma_max.
        rho: exponent of "edm".

    Raises:
        ValueError: an unknown name.
    """
    position = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
    if discretization == "edm":
        return power_spaced(sigma_max, sigma_min, position, rho)
    if discretization == "ve":
        return geometric(sigma_max, sigma_min, position)
    if discretization == "vp":
        return VariancePreserving.spanning(sigma_min, sigma_max).sigma(1 + position * (VP_EPSILON - 1))
    if discretization == "iddpm":
        u = iddpm_levels()
        highest = u[
            (u - sigma_max).abs().argmin()
        ]  # the nearest, as the network rounds: by σ = 80 to 600 the gaps grow to a half
        u = u[(u >= sigma_min) & (u <= highest)]
        return u[((len(u) - 1) * position).round().long()]
    raise ValueError(f"discretization '{discretization}': expected edm, ve, vp or iddpm")


def clip_sigmas(
    discretization: str, low: float | None, high: float | None, net: tuple[float, float] = (0.0, inf)
) -> tuple[float, float]:
    """(σ_min, σ_max) of a discretization: its defaults where None is given, inside the network's own limits `net`.

    Raises ValueError for an unknown name.
    """
    if discretization not in SIGMA_RANGES:
        raise ValueError(f"discretization '{discretization}': expected {', '.join(SIGMA_RANGES)}")
    default = SIGMA_RANGES[discretization]
    return max(default[0] if low is None else low, net[0]), min(default[1] if high is None else high, net[1])
