"""The Γ distribution: KL against torch.distributions and quadrature, implicit gradients against the CDF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Gamma, kl_divergence

from echo_synth.vae.gamma import kl_gamma, kl_to_prior, sample_gamma, softplus10

SHAPES = torch.logspace(np.log10(0.05), 2, 12, dtype=torch.float64)


def test_kl_is_that_of_torch_distributions() -> None:
    a, b = torch.meshgrid(SHAPES, SHAPES, indexing="ij")
    ours = kl_gamma(a, a * 0 + 2.0, b, b * 0 + 10.8)
    theirs = kl_divergence(Gamma(a, a * 0 + 2.0), Gamma(b, b * 0 + 10.8))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def _quadrature(a: float, b: float, c: float, d: float) -> float:
    """KL( Γ(a, b) ‖ Γ(c, d) ) by the trapezoidal rule in u = ln x, which smooths the pole at 0 away."""
    p, q = stats.gamma(a, scale=1 / b), stats.gamma(c, scale=1 / d)
    low = max(-690.0, np.log(max(p.ppf(1e-15), 1e-300)) - 5)
    u = np.linspace(low, np.log(p.isf(1e-16)) + 1, 400_001)
    x = np.exp(u)
    log_p = p.logpdf(x)
    return float(np.trapezoid(np.exp(log_p + u) * (log_p - q.logpdf(x)), u))


@pytest.mark.parametrize("a", [0.05, 0.3, 3.75, 20.0, 100.0])
@pytest.mark.parametrize("c", [0.05, 0.7, 3.75, 100.0])
def test_kl_and_its_gradient_are_the_integral(a: float, c: float) -> None:
    b, d = 2.0 + a, 10.8
    alpha, beta, other = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b, c))
    ours = kl_gamma(alpha, beta, other, torch.tensor(d, dtype=torch.float64))
    assert float(ours.detach()) == pytest.approx(_quadrature(a, b, c, d), rel=1e-6, abs=1e-8)
    gradients = torch.autograd.grad(ours, (alpha, beta, other))
    for i, gradient in enumerate(gradients):
        point = [a, b, c, d]
        h = 1e-4 * point[i]
        above, below = (_quadrature(*[v + s * h * (j == i) for j, v in enumerate(point)]) for s in (1, -1))
        assert float(gradient) == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-4)


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


@pytest.mark.parametrize("shape", [0.3, 1.0, 3.75, 20.0, 100.0])
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
