"""Heun's method (EDM, algorithm 1): second order, two evaluations a step, one in the last."""

from __future__ import annotations

from torch import Tensor

from echo_synth.sampling import euler
from echo_synth.sampling.ode import Trajectory
from echo_synth.sampling.solver import Solver


def steps_for(nfe: int) -> int:
    """Steps that spend `nfe` evaluations: k steps cost 2k − 1; an even budget makes one more step first order."""
    return nfe // 2 + 1


def step(trajectory: Trajectory, x: Tensor, i: int) -> Tensor:
    """x at t_{i+1} from x at t_i: an Euler step, then the mean of the slopes at both of its ends."""
    x, t = trajectory.add_noise(x, trajectory.times[i])
    ahead = trajectory.times[i + 1]
    slope = trajectory.slope(x, t)
    predicted = x + (ahead - t) * slope
    return x + (ahead - t) * (slope + trajectory.slope(predicted, ahead)) / 2


def integrate(trajectory: Trajectory, x: Tensor, nfe: int) -> Tensor:
    """x at t = 0 from x at t_0, spending exactly `nfe`.

    With an even budget the first step is Euler's: at the highest noise the trajectory is
    straightest and the corrector matters least.
    """
    last = trajectory.steps - 1
    for i in range(trajectory.steps):
        first_order = i == last or (i == 0 and nfe % 2 == 0)
        x = euler.step(trajectory, x, i) if first_order else step(trajectory, x, i)
    return x


SOLVER = Solver(order=2, steps_for=steps_for, integrate=integrate)
