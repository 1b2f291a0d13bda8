"""Euler's method: first order, one evaluation a step."""

from __future__ import annotations

from torch import Tensor

from echo_synth.sampling.ode import Trajectory
from echo_synth.sampling.solver import Solver, one_evaluation_a_step


def step(trajectory: Trajectory, x: Tensor, i: int) -> Tensor:
    """x at t_{i+1} from x at t_i."""
    x, t = trajectory.add_noise(x, trajectory.times[i])
    return x + (trajectory.times[i + 1] - t) * trajectory.slope(x, t)


def integrate(trajectory: Trajectory, x: Tensor, nfe: int) -> Tensor:
    """x at t = 0 from x at t_0."""
    for i in range(trajectory.steps):
        x = step(trajectory, x, i)
    return x


SOLVER = Solver(order=1, steps_for=one_evaluation_a_step, integrate=integrate)
