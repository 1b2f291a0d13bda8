"""DDPM's ancestral sampling (Ho et al. 2020, eq. 6 and 7), in coordinates where x = clean + σ n.

From σ to σ' < σ the posterior of x' given x and the clean image D is Gaussian with mean
D + (σ'/σ)² (x − D) and variance σ'² (σ² − σ'²) / σ²; with σ' = 0 it is D itself. The variance is
the lower of DDPM's two choices. Over fewer levels than were trained it is the respaced process.
"""

from __future__ import annotations

from torch import Tensor

from echo_synth.sampling.ode import Trajectory
from echo_synth.sampling.solver import Solver, one_evaluation_a_step


def integrate(trajectory: Trajectory, x: Tensor, nfe: int) -> Tensor:
    """x at t = 0 from x at t_0; draws noise in every step but the last."""
    schedule = trajectory.schedule
    sigmas = [schedule.sigma(t) for t in trajectory.times[:-1]]
    x = x / schedule.scale(trajectory.times[0])
    for i, sigma in enumerate(sigmas):
        denoised = trajectory.denoise(x, sigma)
        if i == len(sigmas) - 1:
            return denoised
        ratio = (sigmas[i + 1] / sigma) ** 2
        spread = sigmas[i + 1] * (1 - ratio).sqrt()
        x = denoised + ratio * (x - denoised) + spread * trajectory.draw(x)
    return x


SOLVER = Solver(order=1, steps_for=one_evaluation_a_step, integrate=integrate, stochastic=True)
