"""What the encoder's two maps mean: the paper's Γ posterior, or the Gaussian of a standard VAE.

Both sides of the comparison share network, losses and training; they differ in these classes only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from echo_synth.vae.gamma import Direction, kl_to_prior, mean_gamma, sample_gamma, softplus10
from echo_synth.vae.gaussian import LOG_VARIANCE_RANGE, kl_gaussian, sample_gaussian, wide

PosteriorFamily = Literal["gamma", "gaussian"]
POSTERIOR_FAMILIES: tuple[PosteriorFamily, ...] = get_args(PosteriorFamily)


class Posterior(ABC):
    """q(z | x) of a batch; every tensor (N, C, h, w), float32 or wider."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[z]."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparameterised draw."""

    @abstractmethod
    def at(self, i: int) -> Posterior:
        """Posterior of image i alone, its tensors (1, C, h, w)."""

    @abstractmethod
    def kl(self, direction: Direction) -> Tensor:
        """KL between posterior and prior, per element."""


@dataclass(frozen=True)
class GammaPosterior(Posterior):
    """Γ(alpha, beta), shape and rate, against the prior Γ(alpha_prior, beta_prior)."""

    alpha: Tensor
    beta: Tensor
    alpha_prior: float
    beta_prior: float

    @classmethod
    def of_maps(cls, a: Tensor, b: Tensor, alpha_prior: float, beta_prior: float) -> GammaPosterior:
        """The prior's parameters, scaled by softplus10 of the raw maps."""
        return cls(alpha_prior * softplus10(a), beta_prior * softplus10(b), alpha_prior, beta_prior)

    @property
    def mean(self) -> Tensor:
        return mean_gamma(self.alpha, self.beta)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return sample_gamma(self.alpha, self.beta, generator)

    def at(self, i: int) -> GammaPosterior:
        return replace(self, alpha=self.alpha[i : i + 1], beta=self.beta[i : i + 1])

    def kl(self, direction: Direction) -> Tensor:
        return kl_to_prior(self.alpha, self.beta, self.alpha_prior, self.beta_prior, direction)


@dataclass(frozen=True)
class GaussianPosterior(Posterior):
    """N(mu, exp(log_variance)) against the prior N(0, 1)."""

    mu: Tensor
    log_variance: Tensor

    @classmethod
    def of_maps(cls, a: Tensor, b: Tensor) -> GaussianPosterior:
        """Mean and log variance are the raw maps; the latter clamped to where float32 holds it."""
        return cls(wide(a), wide(b).clamp(*LOG_VARIANCE_RANGE))

    @property
    def mean(self) -> Tensor:
        return self.mu

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return sample_gaussian(self.mu, self.log_variance, generator)

    def at(self, i: int) -> GaussianPosterior:
        return replace(self, mu=self.mu[i : i + 1], log_variance=self.log_variance[i : i + 1])

    def kl(self, direction: Direction) -> Tensor:
        return kl_gaussian(self.mu, self.log_variance, reverse=direction == "prior-posterior")


def sample_each(posterior: Posterior, generators: Sequence[torch.Generator | None]) -> Tensor:
    """One draw of every image's z, (N, C, h, w), image i from generator i: batches do not change it."""
    return torch.cat([posterior.at(i).sample(g) for i, g in enumerate(generators)])
