"""Preconditioning: D(x; σ) = c_skip x + c_out F(c_in x; c_noise), and the noise levels of training.

One class a formulation; each is Karras et al. 2022, table 1, as code.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from echo_synth.sampling.noise_laws import SIGMA_RANGES, VariancePreserving, geometric, iddpm_levels


class Scalings(NamedTuple):
    """Factors of one noise level, each the shape of σ."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


class Precond(ABC):
    """A formulation. σ tensors are float32 or float64, any shape."""

    discretization: str  # of the noise levels that it was published with
    sigma_min: float = 0.0
    sigma_max: float = inf

    @abstractmethod
    def scalings(self, sigma: Tensor) -> Scalings:
        """c_skip, c_out, c_in, c_noise at σ."""

    @abstractmethod
    def training_sigma(self, uniform: Tensor) -> Tensor:
        """Noise levels of training from `uniform` draws in (0, 1), same shape."""

    @abstractmethod
    def loss_weight(self, sigma: Tensor) -> Tensor:
        """λ(σ) of the squared error of D."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """Nearest noise level that the network was trained at."""
        return sigma


class EdmPrecond(Precond):
    """EDM: σ_data 0.5, log-normal σ with P_mean −1.2 and P_std 1.2."""

    discretization = "edm"

    def __init__(self, sigma_data: float = 0.5, p_mean: float = -1.2, p_std: float = 1.2) -> None:
        self.sigma_data, self.p_mean, self.p_std = sigma_data, p_mean, p_std

    def scalings(self, sigma: Tensor) -> Scalings:
        d2 = self.sigma_data**2
        total = (sigma**2 + d2).sqrt()
        return Scalings(d2 / total**2, sigma * self.sigma_data / total, 1 / total, sigma.log() / 4)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        # The inverse of the normal CDF instead of a normal draw: stratified uniforms stay stratified.
        return (torch.special.ndtri(uniform) * self.p_std + self.p_mean).exp()

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class VePrecond(Precond):
    """Variance exploding: σ log-uniform in [0.02, 100]."""

    discretization = "ve"
    sigma_min, sigma_max = SIGMA_RANGES["ve"]

    def scalings(self, sigma: Tensor) -> Scalings:
        one = torch.ones_like(sigma)
        return Scalings(one, sigma, one, (0.5 * sigma).log())

    def training_sigma(self, uniform: Tensor) -> Tensor:
        return geometric(self.sigma_min, self.sigma_max, uniform)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


class VpPrecond(Precond):
    """Variance preserving: β_d 19.9, β_min 0.1, t uniform in [1e-5, 1], 1000 noise labels."""

    discretization = "vp"

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, levels: int = 1000, t_min: float = 1e-5) -> None:
        self.law, self.levels, self.t_min = VariancePreserving(beta_d, beta_min), levels, t_min
        self.sigma_min, self.sigma_max = self.law.sigma_at(t_min), self.law.sigma_at(1.0)

    def scalings(self, sigma: Tensor) -> Scalings:
        noise = (self.levels - 1) * self.law.time(sigma)
        return Scalings(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), noise)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        return self.law.sigma(self.t_min + uniform * (1 - self.t_min))

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


class IddpmPrecond(Precond):
    """iDDPM: 1000 noise levels of the cosine schedule; two output channels, the first predicts the noise."""

    discretization = "iddpm"

    def __init__(self, levels: int = 1000, c1: float = 0.001, c2: float = 0.008) -> None:
        self.levels = levels
        self.u = iddpm_levels(levels, c1, c2)
        self.sigma_min, self.sigma_max = float(self.u[levels - 1]), float(self.u[0])

    def index(self, sigma: Tensor) -> Tensor:
        """Index of the nearest noise level; 0 is the noisiest."""
        u = self.u.to(sigma.device, torch.float32)
        return torch.cdist(sigma.float().reshape(1, -1, 1), u.reshape(1, -1, 1)).argmin(2).reshape(sigma.shape)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.u.to(sigma.device)[self.index(sigma)].to(sigma.dtype)

    def scalings(self, sigma: Tensor) -> Scalings:
        noise = (self.levels - 1 - self.index(sigma)).to(sigma.dtype)
        return Scalings(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), noise)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        index = (uniform * self.levels).long().clamp(0, self.levels - 1)
        return self.u.to(uniform.device)[index].to(uniform.dtype)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


PRECONDS: dict[str, type[Precond]] = {"edm": EdmPrecond, "ve": VePrecond, "vp": VpPrecond, "iddpm": IddpmPrecond}


_MAX_LEVELS = 10_000
_LARGEST = 1e3  # of any other argument; the published ones are 20 and less


def check_arguments(name: str, arguments: Mapping[str, float]) -> None:
    """Raise ValueError unless `arguments` are of that formulation's constructor and in a range that makes sense."""
    known = inspect.signature(PRECONDS[name]).parameters
    for key, value in arguments.items():
        if key not in known:
            raise ValueError(f"{name} has no argument '{key:.40}', expected {', '.join(known) or 'none'}")
        if key == "levels":
            good, range_ = (
                isinstance(value, int) and 1 <= value <= _MAX_LEVELS,
                f"a whole number from 1 to {_MAX_LEVELS}",
            )
        elif key == "p_mean":
            good, range_ = abs(value) <= _LARGEST, f"a number of at most ±{_LARGEST:g}"
        elif key == "t_min":
            good, range_ = 0 < value < 1, "a number between 0 and 1"
        else:
            good, range_ = 0 < value <= _LARGEST, f"a positive number of at most {_LARGEST:g}"
        if not good:
            raise ValueError(f"{name}'s {key} is {value}, expected {range_}")


def build_precond(name: str, **arguments: float) -> Precond:
    """The formulation of that name: edm, ve, vp or iddpm; `arguments` as its constructor, see `check_arguments`."""
    return PRECONDS[name](**arguments)
