"""Solvers against an exact denoiser: convergence order, exact budgets, closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from echo_synth.sampling import SOLVERS, sample
from echo_synth.sampling.schedules import DEFAULT_SIGMAS, make_schedule, noise_levels
from tests.analytic import mixture_denoiser

ORDERS = {"euler": 1, "heun": 2, "dpmpp-2m": 2}


def _noise(seed: int = 0, shape: tuple[int, ...] = (3, 1, 5, 5)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("solver", SOLVERS)
def test_budget_is_spent_exactly(solver: str) -> None:
    exact = mixture_denoiser()
    for nfe in range(1, 201):
        calls = 0

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return exact(x, sigma)

        result = sample(denoise, _noise(), nfe=nfe, solver=solver)
        assert calls == nfe
        assert torch.isfinite(result).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_order_of_convergence(solver: str) -> None:
    denoise = mixture_denoiser(0.4, 0.3)
    truth = sample(denoise, _noise(), nfe=8001, solver="heun")
    steps = np.array([64, 128, 256, 512])
    nfe = 2 * steps - 1 if solver == "heun" else steps
    errors = [float((sample(denoise, _noise(), nfe=int(n), solver=solver) - truth).abs().mean()) for n in nfe]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(ORDERS[solver], abs=0.15)


@pytest.mark.parametrize("discretization", DEFAULT_SIGMAS)
@pytest.mark.parametrize(("schedule", "scaling"), [("linear", "none"), ("ve", "none"), ("vp", "vp")])
def test_gaussian_data_has_a_closed_form(discretization: str, schedule: str, scaling: str) -> None:
    """For N(0, d²) data the ODE is x(0) = x(σ) d / sqrt(d² + σ²), whatever the parameterisation."""
    d = 0.5

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * d**2 / (d**2 + sigma**2)

    low, high = DEFAULT_SIGMAS[discretization]
    noise = _noise()
    got = sample(
        denoise, noise, nfe=999, solver="heun", discretization=discretization, schedule=schedule, scaling=scaling
    )
    level = float(noise_levels(discretization, 500, low, high, 7.0)[0])
    # What remains is the first-order last step from σ_min, and coarse steps where σ(t) is uneven.
    # iDDPM's first levels are far apart (157, 53, …), which t = σ² stretches further.
    rough = 5e-2 if (schedule, discretization) == ("ve", "iddpm") else 5e-3
    tolerance = 2 * (low / d) ** 2 + (5e-4 if (schedule, discretization) == ("linear", "edm") else rough)
    assert torch.allclose(got, noise * level * d / (d**2 + level**2) ** 0.5, atol=tolerance)


@pytest.mark.parametrize("name", ["linear", "ve", "vp"])
def test_time_inverts_sigma_and_the_derivative_is_one(name: str) -> None:
    law = make_schedule(name, "vp", 0.002, 80.0)
    t = law.time(torch.logspace(-2.5, 1.8, 50, dtype=torch.float64))
    assert torch.allclose(law.time(law.sigma(t)), t, rtol=1e-9)
    h = 1e-6 * t
    numeric = (law.sigma(t + h) - law.sigma(t - h)) / (2 * h)
    assert torch.allclose(law.sigma_derivative(t), numeric, rtol=1e-5)
    numeric = (law.scale(t + h) - law.scale(t - h)) / (2 * h)
    assert torch.allclose(law.scale_derivative(t), numeric, rtol=1e-4, atol=1e-8)


def test_the_corrector_sees_the_predicted_point() -> None:
    """The reference code evaluated the start of the step twice: first order at second-order cost."""
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return mixture_denoiser()(x, sigma)

    sample(denoise, _noise(), nfe=9, solver="heun")
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_churn_keeps_the_distribution_of_gaussian_data() -> None:
    d = 0.5
    generator = torch.Generator().manual_seed(0)
    result = sample(
        lambda x, s: x * d**2 / (d**2 + s**2), torch.randn(20000, generator=generator, dtype=torch.float64), nfe=799,
        solver="heun", churn=60, churn_options={"draw": lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)},
    )  # fmt: skip
    # Standard error of a variance over n samples is var·sqrt(2/n) = 1 %: 5 % is five of them.
    assert float(result.var()) == pytest.approx(d**2, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk4"}, "solver"),
        ({"nfe": 0}, "nfe"),
        ({"schedule": "cosine"}, "schedule"),
        ({"discretization": "x"}, "discretization"),
    ],
)
def test_wrong_names_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(mixture_denoiser(), _noise(), **({"nfe": 5} | options))  # type: ignore[arg-type]
