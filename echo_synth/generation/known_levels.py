"""The noise levels that a run's network knows: where generation may start, and how many steps it may take."""

from __future__ import annotations

import torch

from echo_synth.diffusion.preconditioning import build_precond
from echo_synth.errors import SpecError
from echo_synth.runs.description import DiffusionDescription
from echo_synth.runs.folder import Run
from echo_synth.sampling import check_levels


def start_of(run: Run, sigma_max: float | None) -> float | None:
    """The noise level of the network that is nearest to `sigma_max`, in units of the clean data; None stays None.

    Raises SpecError for one above the levels that the network knows: it would begin lower than is recorded.
    """
    description = run.description
    if sigma_max is None or not isinstance(description, DiffusionDescription):
        return sigma_max
    precond = build_precond(description.precond, **description.precond_arguments)
    if sigma_max > precond.sigma_max:
        raise SpecError(
            f"--sigma-max {sigma_max:g}: {run.folder} knows noise levels up to {precond.sigma_max:.5g}; choose one of these"
        )
    return float(precond.round_sigma(torch.tensor(sigma_max, dtype=torch.float64, device="cpu")))


def check_steps(run: Run, solver: str, nfe: int, sigma_max: float | None) -> None:
    """Raises SpecError where a multistep solver takes more steps than the network has noise levels from `sigma_max` down."""
    description = run.description
    if not isinstance(description, DiffusionDescription):
        return
    precond = build_precond(description.precond, **description.precond_arguments)
    known = (precond.sigma_min, precond.sigma_max)
    try:
        check_levels(nfe, solver, precond.discretization, sigma_max, round_sigma=precond.round_sigma, net_sigmas=known)
    except ValueError as e:
        start = "" if sigma_max is None else f", --sigma-max {sigma_max:g}"
        raise SpecError(f"--nfe {nfe}, --solver {solver}{start}: {e}") from None
