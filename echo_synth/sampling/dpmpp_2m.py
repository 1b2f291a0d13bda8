"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, multistep, one evaluation a step.

It integrates the linear part of the ODE exactly, in λ = −ln σ, and extrapolates the denoised
image from the last two evaluations; time and scale do not enter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echo_synth.sampling.ode import Trajectory
from echo_synth.sampling.solver import Solver, one_evaluation_a_step


def integrate(trajectory: Trajectory, x: Tensor, nfe: int) -> Tensor:
    """x at t = 0 from x at t_0. The first and the last step (to σ = 0) are first order."""
    schedule = trajectory.schedule
    sigmas = [schedule.sigma(t) for t in trajectory.times[:-1]]
    x = x / schedule.scale(trajectory.times[0])
    previous: Tensor | None = None
    for i, sigma in enumerate(sigmas):
        denoised = trajectory.denoise(x, sigma)
        if i == len(sigmas) - 1:
            return denoised
        h = torch.log(sigma / sigmas[i + 1])
        target = denoised
        if previous is not None:
            ratio = torch.log(sigmas[i - 1] / sigma) / h
            target = denoised + (denoised - previous) / (2 * ratio)
        x = sigmas[i + 1] / sigma * x - torch.expm1(-h) * target
        previous = denoised
    return x


SOLVER = Solver(order=2, steps_for=one_evaluation_a_step, integrate=integrate, multistep=True)
