"""The Gamma distribution of the latent: parameters, moments, KL. All in float32 or wider.

`lgamma` and `digamma` are useless in bf16, so each function leaves autocast by itself.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

FLOOR = 1e-7
Direction = Literal["prior-posterior", "posterior-prior"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def softplus10(x: Tensor) -> Tensor:
    """softplus(10 x) / 10, floored at 1e-7: nearly linear above 0.3, positive everywhere. Shape of x, float32+."""
    wide = x if x.dtype == torch.float64 else x.float()
    return torch.nn.functional.softplus(wide, beta=10.0).clamp_min(FLOOR)


def kl_gamma(alpha: Tensor, beta: Tensor, alpha_other: Tensor | float, beta_other: Tensor | float) -> Tensor:
    """KL( Γ(α, β) ‖ Γ(α', β') ) per element, shape and rate; paper section 2.3.

    (α − α') ψ(α) − lnΓ(α) + lnΓ(α') + α' (ln β − ln β') + α (β' − β) / β
    """
    with torch.autocast(alpha.device.type if isinstance(alpha, Tensor) else "cpu", enabled=False):
        a, b, c, d = (_wide(v, like=alpha) for v in (alpha, beta, alpha_other, beta_other))
        return (
            (a - c) * torch.digamma(a) - torch.lgamma(a) + torch.lgamma(c) + c * (b.log() - d.log()) + a * (d - b) / b
        )


def _wide(value: Tensor | float, like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.as_tensor(value, device=like.device).to(dtype)


def kl_to_prior(
    alpha: Tensor, beta: Tensor, alpha_prior: float, beta_prior: float, direction: Direction = "prior-posterior"
) -> Tensor:
    """KL between the posterior Γ(alpha, beta) and the prior, per element, in either direction.

    In the paper's D(p‖q), p is the prior: KL(prior‖posterior), the default. The usual
    ELBO term is "posterior-prior".
    """
    prior = (_wide(alpha_prior, alpha).expand_as(alpha), _wide(beta_prior, alpha).expand_as(alpha))
    if direction == "posterior-prior":
        return kl_gamma(alpha, beta, *prior)
    return kl_gamma(*prior, alpha, beta)


def sample_gamma(alpha: Tensor, beta: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One reparameterised sample per element (implicit gradients, Figurnov et al. 2018), float32 or wider.

    torch's own `_standard_gamma` carries the implicit gradient; it takes the generator.
    """
    with torch.autocast(alpha.device.type, enabled=False):
        standard = torch._standard_gamma(_wide(alpha, alpha), generator=generator)
        return standard.clamp_min(FLOOR) / _wide(beta, alpha)


def mean_gamma(alpha: Tensor, beta: Tensor) -> Tensor:
    """E[z] = α / β."""
    return alpha / beta
