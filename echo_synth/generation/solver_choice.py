"""Which solver, and along which noise levels: what was asked for, or what a study of the run measured to be nearest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, PositiveInt, model_validator

from echo_synth.errors import SpecError
from echo_synth.generation.known_levels import check_steps, start_of
from echo_synth.records import read_json_as
from echo_synth.runs.description import DiffusionDescription, Distillation
from echo_synth.runs.find import DISTILLED_NFE
from echo_synth.runs.folder import Run
from echo_synth.sampling import CONSISTENCY, SOLVERS
from echo_synth.sampling.level_search import falling

STUDY = "solvers.json"  # in a run folder
_HEUN = "heun"


@dataclass(frozen=True)
class SolverChoice:
    """A solver's name and its noise levels σ, highest first; None: those of the formulation."""

    solver: str
    sigmas: tuple[float, ...] | None = None

    def shown(self) -> str | None:
        """The levels as text that gives the same numbers again: '17.2 2.36 0.525'; None where they are not set."""
        return None if self.sigmas is None else " ".join(repr(v) for v in self.sigmas)


def check_solver(name: str) -> str:
    """`name`, which must be a solver's. Raises SpecError that names --solver."""
    if name not in SOLVERS:
        raise SpecError(f"--solver {name}: expected one of {', '.join(SOLVERS)}")
    return name


def choose_solver(
    run: Run, solver: str, nfe: int, known: Mapping[int, str], sigma_max: float | None = None
) -> SolverChoice:
    """`solver`, or for auto what study-solvers found for this run, else for this model (`known`), else Heun (the paper's choice).

    Where `sigma_max` says from which σ to start, searched levels do not count: they have a start of their own.

    Raises SpecError for an unknown solver, a start above the network's levels, more steps than it has levels, or what a
    distilled run cannot do; DataError for a damaged solvers.json.
    """
    description = run.description
    if isinstance(description, DiffusionDescription) and description.distilled:
        if sigma_max is not None:
            raise SpecError(
                f"--sigma-max {sigma_max:g}: {run.folder} is distilled and has noise levels of its own; leave it out"
            )
        return _distilled_choice(run.folder, description.distilled, solver, nfe)
    start = start_of(run, sigma_max)
    choice = SolverChoice(check_solver(solver)) if solver != "auto" else _studied(run, known).choice(nfe)
    if start is not None:
        choice = SolverChoice(choice.solver)
    if choice.sigmas is None:
        try:
            check_steps(run, choice.solver, nfe, sigma_max)
        except SpecError:
            if solver != "auto" or choice.solver == _HEUN:
                raise
            choice = SolverChoice(_HEUN)  # half the steps, which the network may have levels for
            check_steps(run, _HEUN, nfe, sigma_max)
    return choice


def _studied(run: Run, known: Mapping[int, str]) -> SolverStudyRecord:
    file = run.folder / STUDY
    if not file.is_file():
        return SolverStudyRecord(recommended=dict(known))
    study = read_study(file)
    if study.weights is not None and study.weights != run.hash():
        raise SpecError(
            f"{file}: was measured on other weights than the run has now; repeat study-solvers with --overwrite, or choose a --solver"
        )
    return study


def _distilled_choice(folder: Path, distilled: Distillation, solver: str, nfe: int) -> SolverChoice:
    """One evaluation at the highest level, or a second one at a lower. Raises SpecError for anything else."""
    teacher = f"its teacher (weights {distilled.teacher}) takes any"
    if solver != "auto":
        raise SpecError(f"--solver {solver}: {folder} is distilled and has no solver; leave it at auto, or {teacher}")
    if nfe not in DISTILLED_NFE:
        raise SpecError(f"--nfe {nfe}: {folder} is distilled to 1 or 2 evaluations; use --nfe 1 or 2, or {teacher}")
    return SolverChoice(CONSISTENCY, (distilled.sigma_max, distilled.renoise)[:nfe])


class Schedule(BaseModel):
    """Searched noise levels of one NFE: solver, and σ highest first, in units of the clean data."""

    solver: Literal[*SOLVERS]  # type: ignore[valid-type]
    sigmas: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if not falling(self.sigmas):
            raise ValueError("noise levels that do not fall")
        return self


class SolverStudyRecord(BaseModel):
    """Of a solvers.json, what is followed: the nearest solver by NFE at its own levels, and searched levels by NFE."""

    weights: str | None = None  # hash of those that were studied; earlier versions did not say
    recommended: dict[PositiveInt, Literal[*SOLVERS]]  # type: ignore[valid-type]
    schedules: dict[PositiveInt, Schedule] = {}

    @model_validator(mode="after")
    def _levels_are_those_of_the_steps(self) -> Self:
        for nfe, schedule in self.schedules.items():
            steps = SOLVERS[schedule.solver].steps_for(nfe)
            if len(schedule.sigmas) != steps:
                raise ValueError(
                    f"{len(schedule.sigmas)} noise levels for {schedule.solver} at {nfe} NFE, expected {steps}"
                )
        return self

    def choice(self, nfe: int) -> SolverChoice:
        """The schedule searched for this very NFE, else the solver that was nearest at the nearest studied NFE."""
        schedule = self.schedules.get(nfe)
        if schedule:
            return SolverChoice(schedule.solver, schedule.sigmas)
        return SolverChoice(solver_for(self.recommended, nfe) if self.recommended else _HEUN)


def read_study(file: Path) -> SolverStudyRecord:
    """A solvers.json. Raises DataError for what study-solvers did not write."""
    return read_json_as(SolverStudyRecord, file, "echosynth study-solvers")


def solver_for(recommended: Mapping[int, str], nfe: int) -> str:
    """The recommendation at the studied NFE that is nearest (in ratio) to `nfe`."""
    return recommended[min(recommended, key=lambda n: abs(math.log(n / nfe)))]
