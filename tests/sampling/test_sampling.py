"""Solvers against an exact denoiser: convergence order, exact budgets, closed forms."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate

from echo_synth.sampling import SOLVERS, sample, unipc
from echo_synth.sampling.noise_laws import SIGMA_RANGES
from echo_synth.sampling.schedules import make_schedule, noise_levels
from tests.analytic import mixture_denoiser

# Steps depend on the parity of NFE and on the few values that a solver remembers: small budgets show all of it.
BUDGETS = (*range(1, 41), 63, 64, 99, 100, 127, 128, 199, 200)
OF_THE_ODE = [name for name, solver in SOLVERS.items() if not solver.stochastic]
REFERENCE = Path(__file__).parents[1] / "reference" / "samplers.npz"


def _noise(seed: int = 0, shape: tuple[int, ...] = (3, 1, 5, 5)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("solver", SOLVERS)
def test_budget_is_spent_exactly(solver: str) -> None:
    exact = mixture_denoiser()
    for nfe in BUDGETS:
        calls = 0

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return exact(x, sigma)

        result = sample(denoise, _noise(), nfe=nfe, solver=solver)
        assert calls == nfe
        assert torch.isfinite(result).all()


def solved_by_scipy() -> torch.Tensor:
    """The ODE of `mixture_denoiser(0.4, 0.3)` by scipy's eighth-order method, in λ = −ln σ: dx/dλ = D − x."""
    denoise, low, high = mixture_denoiser(0.4, 0.3), *SIGMA_RANGES["edm"]

    def slope(level: float, x: np.ndarray) -> np.ndarray:
        point = torch.from_numpy(x)
        return (denoise(point, torch.tensor(np.exp(-level))) - point).numpy()

    start = (_noise() * high).numpy().ravel()
    solved = integrate.solve_ivp(slope, (-np.log(high), -np.log(low)), start, method="DOP853", rtol=1e-12, atol=1e-12)
    return denoise(torch.from_numpy(solved.y[:, -1]), torch.tensor(low)).reshape(_noise().shape)


@pytest.fixture(scope="module")
def exact_solution() -> torch.Tensor:
    return solved_by_scipy()


def test_a_corrector_at_the_start_of_the_step_is_eulers_at_twice_the_cost(exact_solution: torch.Tensor) -> None:
    """The reference code's Heun evaluates D(x, t) again, not D at the predicted point: its second slope equals the first.

    x' − D = (x − D) t'/t for an Euler step to x', so (x' − D)/t' = (x − D)/t: nothing is corrected.
    """
    denoise, steps = mixture_denoiser(0.4, 0.3), 64
    times = [*noise_levels("edm", steps, *SIGMA_RANGES["edm"], 7.0), torch.tensor(0.0, dtype=torch.float64)]
    x = _noise() * times[0]
    for t, ahead in itertools.pairwise(times):
        slope = (x - denoise(x, t)) / t
        predicted = x + (ahead - t) * slope
        if ahead > 0:
            slope = (slope + (predicted - denoise(x, t)) / ahead) / 2
        x = x + (ahead - t) * slope
    euler, heun = (sample(denoise, _noise(), nfe=n, solver=s) for n, s in ((steps, "euler"), (2 * steps - 1, "heun")))
    torch.testing.assert_close(x, euler, rtol=0, atol=1e-12)
    assert (heun - exact_solution).abs().mean() < (x - exact_solution).abs().mean() / 10


def _largest_budget(solver: str, steps: int) -> int:
    """The most evaluations that still make `steps` steps: no step is then of a lower order for want of one."""
    return max(n for n in range(1, 4 * steps) if SOLVERS[solver].steps_for(n) == steps)


@pytest.mark.parametrize("solver", OF_THE_ODE)
def test_order_of_convergence(solver: str, exact_solution: torch.Tensor) -> None:
    denoise = mixture_denoiser(0.4, 0.3)
    budgets = [_largest_budget(solver, steps) for steps in (256, 512)]  # coarser steps are not yet asymptotic for all
    errors = [float((sample(denoise, _noise(), nfe=n, solver=solver) - exact_solution).abs().mean()) for n in budgets]
    order = np.log2(errors[0] / errors[1])
    assert order == pytest.approx(SOLVERS[solver].order, abs=0.1)


def test_published_orders() -> None:
    """Euler 1, Heun 2 (Karras et al. 2022), DPM-Solver++(2M) 2 (Lu et al. 2022), UniPC with three values 4 (Zhao et al. 2023)."""
    orders = {name: SOLVERS[name].order for name in ("euler", "heun", "dpmpp-2m", "unipc")}
    assert orders == {"euler": 1, "heun": 2, "dpmpp-2m": 2, "unipc": 4}


def _noises_drawn(solver: str, churn: float) -> int:
    drawn = 0

    def draw(x: torch.Tensor) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        return torch.zeros_like(x)

    sample(mixture_denoiser(), _noise(), nfe=12, solver=solver, churn=churn, draw=draw)
    return drawn


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_is_drawn_by_stochastic_solvers_and_where_churn_is_asked_for(solver: str) -> None:
    assert (_noises_drawn(solver, churn=0) > 0) == SOLVERS[solver].stochastic
    if SOLVERS[solver].takes_churn:
        assert _noises_drawn(solver, churn=10) > 0
    else:
        with pytest.raises(ValueError, match="churn needs a one-step solver: "):
            _noises_drawn(solver, churn=10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_multistep_solvers_refuse_noise_levels_that_repeat(solver: str) -> None:
    """Rounded to whole numbers, σ from 80 down to 0.002 has repeats that a division by their difference cannot bear."""
    options = {"nfe": 64, "solver": solver, "round_sigma": lambda s: s.round().clamp_min(1)}
    if SOLVERS[solver].multistep:
        with pytest.raises(ValueError, match="meets noise levels twice"):
            sample(mixture_denoiser(), _noise(), **options)  # type: ignore[arg-type]
    else:
        assert torch.isfinite(sample(mixture_denoiser(), _noise(), **options)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("discretization", SIGMA_RANGES)
@pytest.mark.parametrize(("schedule", "scaling"), [("linear", "none"), ("ve", "none"), ("vp", "vp")])
def test_gaussian_data_has_a_closed_form(discretization: str, schedule: str, scaling: str) -> None:
    """For N(0, d²) data the ODE is x(0) = x(σ) d / sqrt(d² + σ²), whatever the parameterisation."""
    d = 0.5

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * d**2 / (d**2 + sigma**2)

    low, high = SIGMA_RANGES[discretization]
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


def _moment(u: float, h: float, degree: int) -> float:
    return float(h * np.exp(-h * (1 - u)) * u**degree)


def test_unipc_integrates_polynomials_exactly() -> None:
    """Its weights are those of ∫ e^(−(λ_t − λ)) p(λ) dλ for every polynomial that its nodes determine."""
    for h in (0.03, 0.4, 0.6, 3.0):
        nodes = torch.tensor([-2.3, -0.7, 0.0, 1.0], dtype=torch.float64)
        weights = unipc.weights(nodes, torch.tensor(h, dtype=torch.float64))
        for degree in range(4):
            expected, _ = integrate.quad(_moment, 0, 1, args=(h, degree), epsabs=1e-14)
            assert float((weights * nodes**degree).sum()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_ancestral_sampling_of_gaussian_data() -> None:
    """DDPM over 1000 levels on N(0.3, 0.5²): mean and variance.

    With n = 40 000 samples the standard error is 0.0025 for the mean and 0.7 % for the variance;
    bounds of four of them are crossed by chance once in 16 000 runs, and a mean off by 0.02 or a
    variance off by 6 % (twice either bound) is missed once in 30 000.
    """
    mean, d, n = 0.3, 0.5, 40_000
    generator = torch.Generator().manual_seed(0)

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (d**2 * x + sigma**2 * mean) / (d**2 + sigma**2)

    result = sample(denoise, draw(torch.empty(n)), nfe=1000, solver="ddpm", discretization="iddpm", draw=draw)
    assert float(result.mean()) == pytest.approx(mean, abs=4 * d / n**0.5)
    assert float(result.var()) == pytest.approx(d**2, rel=4 * (2 / n) ** 0.5)
    assert len(torch.unique(result)) == n


@pytest.mark.parametrize("key", sorted(k for k in np.load(REFERENCE).files if k != "latents"))
def test_the_reference_sampler_agrees(key: str) -> None:
    solver, discretization, schedule, scaling, steps = key.split("|")
    arrays = np.load(REFERENCE)
    nfe = 2 * int(steps) - 1 if solver == "heun" else int(steps)
    options = {"solver": solver, "discretization": discretization, "schedule": schedule, "scaling": scaling}
    drawn = sample(mixture_denoiser(), torch.from_numpy(arrays["latents"]), nfe=nfe, **options)
    loose = (discretization, schedule, scaling) == ("ve", "vp", "vp")  # two runs of the reference differ by 6e-7
    assert np.abs(drawn.numpy() - arrays[key]).max() < (1e-6 if loose else 1e-9)


def test_churn_keeps_the_distribution_of_gaussian_data() -> None:
    d = 0.5
    generator = torch.Generator().manual_seed(0)

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * d**2 / (d**2 + sigma**2)

    result = sample(denoise, draw(torch.empty(20000)), nfe=799, solver="heun", churn=60, draw=draw)
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


@pytest.mark.parametrize("solver", [*SOLVERS, "consistency"])
def test_a_trajectory_never_waits_for_the_device(solver: str) -> None:
    """Tensors of the device "meta" have no values: a solver that looked into one to decide anything would fail."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert (x.device.type, sigma.device.type, sigma.dim()) == ("meta", "cpu", 0)
        return x / 2

    noise = torch.empty(2, 1, 4, 4, device="meta")
    levels = {"sigmas": (20.0, 0.8), "nfe": 2} if solver == "consistency" else {"nfe": 9}
    drawn = sample(denoise, noise, solver=solver, round_sigma=lambda s: s, **levels)  # type: ignore[arg-type]
    assert (drawn.device.type, drawn.shape, drawn.dtype) == ("meta", noise.shape, noise.dtype)
