"""UniPC (Zhao et al. 2023) with three values, data prediction: a multistep predictor, a corrector that costs nothing.

In λ = −ln σ the ODE of y = x / s is y' = D − y, so between two levels

    y(λ_t) = e^(−h) y(λ_s) + ∫ e^(−(λ_t − λ)) D(λ) dλ,    h = λ_t − λ_s.

The predictor replaces D by the polynomial through its last values (exponential Adams–Bashforth),
the corrector by the one that also passes through D at the predicted point (Adams–Moulton). That
value is the next step's own evaluation: one network evaluation a step. Coefficients are solved
for exactly, so the paper's free function B(h) drops out. Three values make the corrected step fourth order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echo_synth.sampling.ode import Trajectory
from echo_synth.sampling.solver import Solver, one_evaluation_a_step

_VALUES = 3  # of D that the predictor remembers


def weights(nodes: Tensor, h: Tensor) -> Tensor:
    """w (k,) such that ∫ e^(−(λ_t − λ)) D(λ) dλ over a step of length h is Σ w_k D(node_k) for polynomials D.

    Args:
        nodes: (k,) positions in units of the step: 0 is its start, 1 its end, negative ones lie in the past.
        h: scalar, λ_t − λ_s > 0.
    """
    # Moments m_j = ∫_0^1 h e^(−h (1 − u)) u^j du: m_0 = 1 − e^(−h), m_j = 1 − j m_{j−1} / h.
    moments = [
        float(-torch.expm1(-h))
    ]  # plain numbers: a hundred operations on scalar tensors take milliseconds a step
    for j in range(1, len(nodes)):
        moments.append(_moment(j, float(h), moments[-1]))
    powers = nodes[None, :] ** torch.arange(len(nodes), dtype=nodes.dtype, device=nodes.device)[:, None]
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=nodes.dtype, device=nodes.device))


def _moment(j: int, h: float, before: float) -> float:
    """m_j; by its series for short steps, where the recursion subtracts nearly equal numbers."""
    if h > 0.5:
        return 1 - j * before / h
    total, term = 0.0, h / (j + 1)
    for k in range(1, 25):  # Σ (−h)^k … of ∫ h e^(−h v) (1 − v)^j dv
        total = total + term
        term = -term * h / (j + 1 + k)
    return total


def integrate(trajectory: Trajectory, x: Tensor, nfe: int) -> Tensor:
    """x at t = 0 from x at t_0; the first steps, and the last before σ = 0, are of lower order."""
    schedule = trajectory.schedule
    sigmas = [schedule.sigma(t) for t in trajectory.times[:-1]]
    y = x / schedule.scale(trajectory.times[0])
    past: list[tuple[Tensor, Tensor]] = [(-sigmas[0].log(), trajectory.denoise(y, sigmas[0]))]
    for i in range(1, len(sigmas)):
        start, end = past[-1][0], -sigmas[i].log()
        h = end - start
        order = min(_VALUES, len(past), len(sigmas) - i + 1)
        used = past[-order:]
        nodes = torch.stack([(level - start) / h for level, _ in used])
        linear = torch.exp(-h) * y
        predicted = linear + _combine(weights(nodes, h), [d for _, d in used])
        denoised = trajectory.denoise(predicted, sigmas[i])
        nodes = torch.cat([nodes, torch.ones_like(nodes[:1])])
        y = linear + _combine(weights(nodes, h), [*(d for _, d in used), denoised])
        past = [*past, (end, denoised)][-_VALUES:]
    return past[-1][1]


def _combine(coefficients: Tensor, values: list[Tensor]) -> Tensor:
    total = coefficients[0] * values[0]
    for c, v in zip(coefficients[1:], values[1:], strict=True):
        total = total + c * v
    return total


SOLVER = Solver(order=4, steps_for=one_evaluation_a_step, integrate=integrate, multistep=True)
