"""What a solver is: an order, the steps that a budget buys, and how it integrates along them."""

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
        steps_for: network evaluations (NFE, at least 1) to the number of steps that spend exactly them.
        integrate: (trajectory, x (N, …) float64 at t_0, NFE) to x at t = 0; calls `trajectory.denoise` NFE times.
        stochastic: draws noise on the way whatever the churn; its samples do not converge to the ODE's.
        multistep: remembers earlier evaluations, so noise levels may not repeat.
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
