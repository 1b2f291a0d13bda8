"""The interface of solvers: order, number of steps for an NFE, and integration along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from echo_synth.sampling.ode import Trajectory


@dataclass(frozen=True)
class Solver:
    """A way to integrate the probability-flow ODE, or its stochastic counterpart.

    Attributes:
        order: of global convergence in the number of steps: the error falls as steps^−order.
        steps_for: gives the number of steps that use exactly that many network evaluations (NFE, at least 1).
        integrate: (trajectory, x (N, …) float64 at t_0, NFE) to x at t = 0; calls `trajectory.denoise` NFE times.
        stochastic: adds noise in its steps, whatever the churn; its samples do not converge to the ODE's.
        multistep: uses earlier evaluations, so noise levels must not repeat.
    """

    order: int
    steps_for: Callable[[int], int]
    integrate: Callable[[Trajectory, Tensor, int], Tensor]
    stochastic: bool = False
    multistep: bool = False

    @property
    def takes_churn(self) -> bool:
        """Whether noise may be added before its steps (EDM, algorithm 2): one-step solvers of the ODE only."""
        return not (self.stochastic or self.multistep)


def one_evaluation_a_step(nfe: int) -> int:
    """Steps that spend `nfe` evaluations where each costs one."""
    return nfe
