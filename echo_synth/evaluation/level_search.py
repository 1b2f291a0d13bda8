"""Noise levels for few evaluations, searched for one run: by distance to the converged solution, on training maps.

Levels are found on some maps and judged on others, of other patients and with other noise. What is
judged nearest at an NFE is kept: a solver's searched levels, a shorter range, or its own levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from echo_synth.data.maps import MapFolder
from echo_synth.errors import DataError
from echo_synth.evaluation.map_batches import Batch
from echo_synth.evaluation.solver_study import DETERMINISTIC, Yardstick, summary_of
from echo_synth.generation.run import read_batch
from echo_synth.progress import Meter
from echo_synth.sampling import SOLVERS
from echo_synth.sampling.level_search import Found, Levels, resampled, rounded, search
from echo_synth.sampling.schedules import clip_sigmas, noise_levels

SEARCHED = range(2, 13)  # evaluations that levels are searched for
# σ ranges of the starts besides the formulation's own: what lies outside changes little.
RANGES = {"short": (0.05, 20.0), "shorter": (0.05, 6.0)}
COLUMNS = ("solver", "nfe", "levels", "sigmas", "rmse", "rmse_low", "rmse_high", "psnr_db")
_MEASUREMENTS = 6  # at most, for each level
_HOPELESS = 1.5  # a start this much farther than what another solver has reached is not searched from


def maps_apart(folder: MapFolder, count: int) -> tuple[Batch, Batch]:
    """`count` maps to search on and `count` to judge on, of training patients, no patient in both.

    Raises DataError where the folder has fewer than two training patients.
    """
    training = folder.index[folder.index["split"] == "train"]
    patients = sorted(set(training["patient"]))
    if len(patients) < 2:
        raise DataError(
            f"{folder.path}: maps of {len(patients)} training patients, expected two or more; make more maps"
        )
    halves = (patients[::2], patients[1::2])
    rows = [training[training["patient"].isin(half)] for half in halves]
    chosen = [part.iloc[np.linspace(0, len(part) - 1, count).astype(int)] for part in rows]
    return read_batch(folder, chosen[0]), read_batch(folder, chosen[1])


@dataclass(frozen=True)
class LevelSearch:
    """What a search needs to know of a run.

    Attributes:
        searched_on, judged_on: yardsticks that have converged, of different maps.
        solvers: those of the ODE that are tried.
    """

    searched_on: Yardstick
    judged_on: Yardstick
    solvers: Sequence[str] = DETERMINISTIC

    def run(self, budgets: Sequence[int]) -> pd.DataFrame:
        """Columns `COLUMNS`, rows a solver and NFE where levels are "default", of `RANGES`, and "searched".

        The last is missing for a solver whose starts are too far off. Distances are those of the judging maps.
        """
        rows: list[list[Any]] = []
        before: dict[str, Levels] = {}
        meter = Meter(len(budgets), "search", "budgets")
        for nfe in sorted(budgets):
            for solver, name, levels in self._levels(nfe, before):
                judged = self.judged_on.distances(nfe, solver, None if name == "default" else levels)
                rows.append([solver, nfe, name, " ".join(map(repr, levels)), *summary_of(judged)])
            meter.update(1)
        meter.close()
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _levels(self, nfe: int, before: dict[str, Levels]) -> Iterator[tuple[str, str, Levels]]:
        """Solver, name of the levels and levels; `before` holds what was found for fewer evaluations, and is brought up to date."""
        starts = {solver: self._starts(solver, nfe, before.get(solver)) for solver in self.solvers}
        errors = {solver: partial(self._error, nfe, solver) for solver in self.solvers}
        nearest = {solver: min(map(errors[solver], starts[solver].values())) for solver in self.solvers}
        found: dict[str, Found] = {}
        for solver in sorted(self.solvers, key=lambda s: nearest[s]):
            for name in ("default", *RANGES):
                yield solver, name, starts[solver][name]
            best = min((f.error for f in found.values()), default=math.inf)
            if nearest[solver] > _HOPELESS * best:
                continue
            steps = SOLVERS[solver].steps_for(nfe)
            others = [f.levels for f in found.values() if len(f.levels) == steps]
            tried = [*starts[solver].values(), *others]
            bounds = self._bounds()
            found[solver] = search(errors[solver], tried, bounds, _MEASUREMENTS * steps + len(tried))
            before[solver] = found[solver].levels
            yield solver, "searched", found[solver].levels

    def _bounds(self) -> tuple[float, float]:
        precond = self.searched_on.generator.denoiser.precond
        return clip_sigmas(self.searched_on.discretization, None, None, (precond.sigma_min, precond.sigma_max))

    def _starts(self, solver: str, nfe: int, fewer: Levels | None) -> dict[str, Levels]:
        steps, (low, high) = SOLVERS[solver].steps_for(nfe), self._bounds()
        default = noise_levels(self.searched_on.discretization, steps, low, high, 7.0)
        starts = {"default": rounded(default.tolist())}
        for name, (lowest, highest) in RANGES.items():
            starts[name] = rounded(noise_levels("edm", steps, max(low, lowest), min(high, highest), 7.0).tolist())
        return starts | ({"fewer": rounded(resampled(fewer, steps))} if fewer else {})

    def _error(self, nfe: int, solver: str, levels: Levels) -> float:
        """Mean distance on the maps that are searched on; infinite where the network does not tell the levels apart."""
        known = self.searched_on.generator.denoiser.precond.round_sigma(torch.tensor(levels, dtype=torch.float64))
        if len(torch.unique(known)) < len(levels):
            return math.inf
        return float(self.searched_on.distances(nfe, solver, levels).mean())


def schedules(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By NFE, as solvers.json keeps it, the nearest solver with its levels, where they are not its own; of `LevelSearch.run`.

    Each holds rmse, and rmse_default: that of the solver which is nearest with its own levels.
    """
    kept = {}
    for nfe, rows in table.groupby("nfe"):
        best = rows.sort_values("rmse", kind="stable").to_dict("records")[0]
        default = rows[rows["levels"] == "default"]["rmse"].min()
        if best["levels"] != "default":
            sigmas = [float(v) for v in str(best["sigmas"]).split()]
            numbers = {"rmse": float(best["rmse"]), "rmse_default": float(default)}
            kept[str(nfe)] = {"solver": str(best["solver"]), "sigmas": sigmas, **numbers}
    return kept


def yardsticks(
    make: Callable[..., Yardstick], folder: MapFolder, count: int, converged_nfe: int
) -> tuple[Yardstick, Yardstick]:
    """The maps to search on and to judge on with their converged solutions.

    Args:
        make: a `Yardstick` of tissues, frames, and the number of its first noise.
    """
    search_maps, judging_maps = maps_apart(folder, count)
    meter = Meter(2 * converged_nfe, "converge", "evaluations")
    tick = partial(meter.update, 1)
    both = (make(*search_maps, first=count, on_evaluation=tick), make(*judging_maps, first=0, on_evaluation=tick))
    for yardstick in both:
        yardstick.converge(converged_nfe)
        yardstick.on_evaluation = lambda: None
    meter.close()
    return both


def told(table: pd.DataFrame, count: int) -> Mapping[str, Any]:
    """What solvers.json gains by a search: schedules, and the number of maps searched on."""
    return {"schedules": schedules(table), "searched_maps": count}
