"""Time, noise level and scale along a trajectory: Karras et al. 2022, table 1. All in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, log, pi

import torch
from torch import Tensor

VP_EPSILON = 1e-3
VP_BETA_D, VP_BETA_MIN = 19.9, 0.1

Round = Callable[[Tensor], Tensor]


def vp_sigma(t: float, beta_d: float = VP_BETA_D, beta_min: float = VP_BETA_MIN) -> float:
    """σ(t) of the variance-preserving process."""
    return (exp(0.5 * beta_d * t**2 + beta_min * t) - 1) ** 0.5


DEFAULT_SIGMAS = {
    "vp": (vp_sigma(VP_EPSILON), vp_sigma(1.0)),
    "ve": (0.02, 100.0),
    "iddpm": (0.002, 81.0),
    "edm": (0.002, 80.0),
}


@dataclass(frozen=True)
class Schedule:
    """σ(t), its derivative and inverse, and the scale s(t) with its derivative; on float64 tensors."""

    sigma: Callable[[Tensor], Tensor]
    sigma_derivative: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]
    scale: Callable[[Tensor], Tensor]
    scale_derivative: Callable[[Tensor], Tensor]


def make_schedule(schedule: str, scaling: str, sigma_min: float, sigma_max: float) -> Schedule:
    """The named σ(t) and s(t). For "vp", β_d and β_min follow from the σ range (EDM, appendix C.1).

    Raises ValueError for an unknown name.
    """
    sigma, derivative, time = _time_functions(schedule, sigma_min, sigma_max)
    if scaling == "none":
        return Schedule(sigma, derivative, time, torch.ones_like, torch.zeros_like)
    if scaling != "vp":
        raise ValueError(f"scaling '{scaling}': expected none or vp")

    def scale(t: Tensor) -> Tensor:
        return 1 / (1 + sigma(t) ** 2).sqrt()

    return Schedule(sigma, derivative, time, scale, lambda t: -sigma(t) * derivative(t) * scale(t) ** 3)


Law = Callable[[Tensor], Tensor]


def _time_functions(schedule: str, sigma_min: float, sigma_max: float) -> tuple[Law, Law, Law]:
    """σ(t), σ̇(t) and t(σ)."""
    if schedule == "linear":
        return (lambda t: t), (lambda t: torch.ones_like(t)), (lambda s: s)
    if schedule == "ve":
        return (lambda t: t.sqrt()), (lambda t: 0.5 / t.sqrt()), (lambda s: s**2)
    if schedule == "vp":
        return _vp_functions(*_vp_betas(sigma_min, sigma_max))
    raise ValueError(f"schedule '{schedule}': expected linear, ve or vp")


def _vp_betas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    low, high = log(sigma_min**2 + 1), log(sigma_max**2 + 1)
    beta_d = 2 * (low / VP_EPSILON - high) / (VP_EPSILON - 1)
    return beta_d, high - 0.5 * beta_d


def _vp_functions(
    beta_d: float, beta_min: float
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    def sigma(t: Tensor) -> Tensor:
        return ((0.5 * beta_d * t**2 + beta_min * t).exp() - 1).sqrt()

    def derivative(t: Tensor) -> Tensor:
        s = sigma(t)
        return 0.5 * (beta_min + beta_d * t) * (s + 1 / s)

    def time(s: Tensor) -> Tensor:
        return ((beta_min**2 + 2 * beta_d * (s**2 + 1).log()).sqrt() - beta_min) / beta_d

    return sigma, derivative, time


def noise_levels(discretization: str, steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """σ_0 > … > σ_{steps−1}, float64; the final σ = 0 is not included.

    Raises ValueError for an unknown name.
    """
    position = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
    if discretization == "edm":
        a, b = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        return (a + position * (b - a)) ** rho
    if discretization == "ve":
        return sigma_max * (sigma_min / sigma_max) ** position
    if discretization == "vp":
        beta_d, beta_min = _vp_betas(sigma_min, sigma_max)
        return _vp_functions(beta_d, beta_min)[0](1 + position * (VP_EPSILON - 1))
    if discretization == "iddpm":
        u = iddpm_levels()
        u = u[(u >= sigma_min) & (u <= sigma_max)]
        return u[((len(u) - 1) * position).round().long()]
    raise ValueError(f"discretization '{discretization}': expected edm, ve, vp or iddpm")


def iddpm_levels(levels: int = 1000, c1: float = 0.001, c2: float = 0.008) -> Tensor:
    """The cosine schedule's noise levels u_0 > … > u_M = 0, float64."""

    # float32 here is the published schedule: networks were trained at the levels it gives, which
    # differ from the float64 ones in the seventh digit.
    index = torch.arange(levels + 1)
    alpha_bar = (0.5 * pi * index / levels / (c2 + 1)).sin() ** 2
    u = torch.zeros(levels + 1, dtype=torch.float64)
    for j in range(levels, 0, -1):
        u[j - 1] = ((u[j] ** 2 + 1) / (alpha_bar[j - 1] / alpha_bar[j]).clamp_min(c1) - 1).sqrt()
    return u


def clip_sigmas(
    discretization: str, low: float | None, high: float | None, net: tuple[float, float] = (0.0, inf)
) -> tuple[float, float]:
    """σ range of a discretization: its defaults where not given, inside what the network was trained for."""
    if discretization not in DEFAULT_SIGMAS:
        raise ValueError(f"discretization '{discretization}': expected {', '.join(DEFAULT_SIGMAS)}")
    default = DEFAULT_SIGMAS[discretization]
    return max(default[0] if low is None else low, net[0]), min(default[1] if high is None else high, net[1])
