"""Sampling a consistency model (Song et al. 2023, algorithm 1): one step, or more with noise put back in between.

Its D(x, σ) is not a posterior mean but the end of the ODE's trajectory through x, so that one evaluation at the
highest level is a sample, and one more at a lower level, of that sample with fresh noise, mends its details.
"""

from __future__ import annotations

from torch import Tensor

from echo_synth.sampling.ode import Trajectory
from echo_synth.sampling.solver import Solver, one_evaluation_a_step


def integrate(trajectory: Trajectory, x: Tensor, nfe: int) -> Tensor:
    """x at t = 0 from x at t_0; draws noise before every evaluation but the first."""
    schedule = trajectory.schedule
    sigmas = [schedule.sigma(t) for t in trajectory.times[:-1]]
    clean = trajectory.denoise(x / schedule.scale(trajectory.times[0]), sigmas[0])
    for sigma in sigmas[1:]:
        clean = trajectory.denoise(clean + sigma * trajectory.draw(clean), sigma)
    return clean


SOLVER = Solver(order=1, steps_for=one_evaluation_a_step, integrate=integrate, stochastic=True)
