"""The Γ distribution: KL against torch.distributions and quadrature, implicit gradients against the CDF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Gamma, kl_divergence

from echo_synth.vae.gamma import kl_gamma, kl_to_prior, sample_gamma, softplus10

SHAPES = torch.logspace(np.log10(0.05), 2, 12, dtype=torch.float64)


def test_kl_is_that_of_torch_distributions() -> None:
    a, b = torch.meshgrid(SHAPES, SHAPES, indexing="ij")
    ours = kl_gamma(a, a * 0 + 2.0, b, b * 0 + 10.8)
    theirs = kl_divergence(Gamma(a, a * 0 + 2.0), Gamma(b, b * 0 + 10.8))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "c", "d"), [(3.75, 10.8, 2.0, 5.0), (0.6, 1.0, 3.75, 10.8), (40.0, 100.0, 3.75, 10.8)]
)
def test_kl_is_the_integral(a: float, b: float, c: float, d: float) -> None:
    p, q = stats.gamma(a, scale=1 / b), stats.gamma(c, scale=1 / d)
    value, _ = integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), 0, p.ppf(1 - 1e-13), limit=400, points=[p.ppf(0.01), p.mean()]
    )
    ours = kl_gamma(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), c, d)
    assert float(ours) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("direction", ["prior-posterior", "posterior-prior"])
def test_gradient_of_the_kl(direction: str) -> None:
    alpha = torch.tensor([0.05, 0.7, 3.0, 90.0], dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([1.0, 2.0, 11.0, 200.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: kl_to_prior(a, b, 3.75, 10.8, direction), (alpha, beta))  # type: ignore[arg-type]


def test_kl_vanishes_at_the_prior_and_nowhere_else() -> None:
    alpha = torch.tensor([3.75, 3.7], dtype=torch.float64)
    value = kl_to_prior(alpha, torch.full_like(alpha, 10.8), 3.75, 10.8)
    assert value[0].abs() < 1e-12
    assert value[1] > 1e-6


def test_autocast_does_not_reach_the_kl() -> None:
    alpha, beta = torch.tensor([0.3, 3.0, 30.0]), torch.tensor([1.0, 9.0, 80.0])
    plain = kl_to_prior(alpha, beta, 3.75, 10.8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = kl_to_prior(alpha, beta, 3.75, 10.8)
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)


def test_samples_have_the_right_moments() -> None:
    g = torch.Generator().manual_seed(1)
    z = sample_gamma(torch.full((200_000,), 3.75), torch.full((200_000,), 10.8), g)
    assert float(z.mean()) == pytest.approx(3.75 / 10.8, rel=0.01)
    assert float(z.var()) == pytest.approx(3.75 / 10.8**2, rel=0.02)


@pytest.mark.parametrize("shape", [0.3, 1.0, 3.75, 20.0])
def test_implicit_gradient_is_that_of_the_cdf(shape: float) -> None:
    """dz/dα = −(∂F/∂α) / f at the drawn point (Figurnov 2018, eq. 5)."""
    alpha = torch.full((64,), shape, dtype=torch.float64, requires_grad=True)
    z = sample_gamma(alpha, torch.ones_like(alpha), torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(z.sum(), alpha)
    points, h = z.detach().numpy(), 1e-5 * shape
    slope = (stats.gamma.cdf(points, shape + h) - stats.gamma.cdf(points, shape - h)) / (2 * h)
    expected = -slope / stats.gamma.pdf(points, shape)
    assert np.allclose(gradient.numpy(), expected, rtol=2e-3, atol=1e-6)


def test_softplus10_is_positive_and_nearly_linear() -> None:
    x = torch.tensor([-50.0, 0.0, 1.0, 5.0])
    y = softplus10(x)
    assert (y > 0).all()
    assert y[1] == pytest.approx(np.log(2) / 10)
    assert torch.allclose(y[2:], x[2:], atol=1e-5)
