"""Sampling the probability-flow ODE with an exact budget of network evaluations (NFE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from echo_synth.sampling import consistency, ddpm, dpmpp_2m, euler, heun, unipc
from echo_synth.sampling.budget import CountedDenoiser
from echo_synth.sampling.level_search import falling
from echo_synth.sampling.ode import Churn, Denoise, Draw, Trajectory
from echo_synth.sampling.schedules import Round, clip_sigmas, make_schedule, noise_levels
from echo_synth.sampling.solver import Solver

SOLVERS: dict[str, Solver] = {
    "euler": euler.SOLVER,
    "heun": heun.SOLVER,
    "dpmpp-2m": dpmpp_2m.SOLVER,
    "unipc": unipc.SOLVER,
    "ddpm": ddpm.SOLVER,
}

# Of a distilled network, whose D is no denoiser: nothing that a solver of the ODE could use.
CONSISTENCY = "consistency"
_METHODS = {**SOLVERS, CONSISTENCY: consistency.SOLVER}

__all__ = ["CONSISTENCY", "SOLVERS", "Solver", "check_levels", "sample"]


def sample(
    denoise: Denoise,
    noise: Tensor,
    *,
    nfe: int,
    solver: str = "heun",
    discretization: str = "edm",
    schedule: str = "linear",
    scaling: str = "none",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    sigmas: Sequence[float] | None = None,
    churn: float = 0.0,
    churn_options: Mapping[str, float] | None = None,
    draw: Draw = torch.randn_like,
    round_sigma: Round | None = None,
    net_sigmas: tuple[float, float] = (0.0, float("inf")),
) -> Tensor:
    """Solve dx = −σ̇ σ ∇ log p dt from pure noise to σ = 0 (Karras et al. 2022, algorithm 1 and 2).

    Args:
        denoise: D(x, σ), called exactly `nfe` times with x of noise's shape and σ a scalar, both float64; x is on the
            noise's device, σ on the CPU, where all coefficients of the solvers are computed (on a GPU this would take
            hundreds of kernel launches, and decisions would wait for the GPU).
        noise: unit normal, (N, …), any float dtype; scaled to σ_max inside. Steps are taken in float64.
        nfe: number of network evaluations.
        solver: one of `SOLVERS`; ddpm (ancestral) is stochastic. Or `CONSISTENCY`, where D is a distilled network.
        discretization: where the noise levels lie: edm, vp, ve or iddpm.
        schedule, scaling: σ(t) (linear, vp, ve) and s(t) (none, vp).
        sigma_min, sigma_max: default to the discretization's own.
        rho: exponent of the edm discretization.
        sigmas: the noise levels themselves, highest first, as many as the solver takes steps for `nfe`;
            None: those of the discretization.
        churn: S_churn of the stochastic sampler, for euler and heun.
        churn_options: sigma_min, sigma_max, noise; see `Churn`.
        draw: noise for ddpm and churn, shape and dtype of its argument.
        round_sigma: nearest noise level that the network knows, for discrete ones.
        net_sigmas: the network's own limits.

    Returns:
        samples, shape and dtype of `noise`.

    Raises:
        ValueError: unknown name, nfe below 1, churn with a multistep solver, more steps of a multistep solver
            than there are noise levels, or `sigmas` of a wrong number or not in decreasing order.
    """
    method = _checked_solver(solver, nfe, churn)
    rounding = round_sigma or (lambda s: s)
    low, high = clip_sigmas(discretization, sigma_min, sigma_max, net_sigmas)
    law = make_schedule(schedule, scaling, low, high)
    steps = method.steps_for(nfe)
    placed = noise_levels(discretization, steps, low, high, rho) if sigmas is None else _checked_sigmas(sigmas, steps)
    levels = rounding(placed)
    _check_different(levels, solver, nfe)
    times = law.time(levels)
    times = torch.cat([times, torch.zeros_like(times[:1])])
    counted = CountedDenoiser(denoise)
    options = Churn(amount=churn, **(churn_options or {}))
    x = noise.double() * law.sigma(times[0]) * law.scale(times[0])
    result = method.integrate(Trajectory(counted, law, times, rounding, options, draw), x, nfe)
    if counted.calls != nfe:
        raise AssertionError(f"{solver} spent {counted.calls} of {nfe} evaluations")
    return result.to(noise.dtype)


def check_levels(
    nfe: int,
    solver: str,
    discretization: str,
    sigma_max: float | None = None,
    *,
    round_sigma: Round,
    net_sigmas: tuple[float, float],
) -> None:
    """Raises ValueError where `sample` would, of these arguments, because a multistep solver has more steps than there are noise levels."""
    low, high = clip_sigmas(discretization, None, sigma_max, net_sigmas)
    steps = _checked_solver(solver, nfe, 0.0).steps_for(nfe)
    _check_different(round_sigma(noise_levels(discretization, steps, low, high, 7.0)), solver, nfe)


def _check_different(levels: Tensor, solver: str, nfe: int) -> None:
    different = len(torch.unique(levels))
    if _METHODS[solver].multistep and different < len(levels):
        raise ValueError(f"{solver} at nfe {nfe} meets noise levels twice: only {different} exist; use fewer")


def _checked_sigmas(sigmas: Sequence[float], steps: int) -> Tensor:
    """`sigmas` (steps,) float64 on the CPU."""
    levels = torch.tensor(list(sigmas), dtype=torch.float64, device="cpu")
    if len(levels) != steps or not falling(sigmas):
        raise ValueError(f"sigmas are {list(sigmas)}, expected {steps} positive numbers, each below the one before")
    return levels


def _checked_solver(name: str, nfe: int, churn: float) -> Solver:
    if name not in _METHODS:
        raise ValueError(f"solver '{name}': expected one of {', '.join(SOLVERS)}")
    if nfe < 1:
        raise ValueError(f"nfe is {nfe}, expected at least 1")
    solver = _METHODS[name]
    if churn and not solver.takes_churn:
        able = " or ".join(other for other in SOLVERS if SOLVERS[other].takes_churn)
        raise ValueError(f"churn needs a one-step solver: {able}")
    return solver
