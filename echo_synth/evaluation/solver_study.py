"""How near a solver comes in N evaluations to the converged solution of the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from echo_synth.generation.engine import ImageGenerator, SamplerSettings
from echo_synth.progress import Meter
from echo_synth.sampling import SOLVERS

DETERMINISTIC = tuple(name for name, solver in SOLVERS.items() if not solver.stochastic)
COLUMNS = ("solver", "nfe", "rmse", "rmse_low", "rmse_high", "psnr_db")


@dataclass(frozen=True)
class SolverStudy:
    """What was measured.

    Attributes:
        table: columns `COLUMNS`, a row for each solver and NFE.
        converged_nfe: NFE of the solution that counts as converged.
        maps: number of maps it was measured on.
        seed: of the noise.
        weights: hash of those that were studied.
        searched: what --search adds to solvers.json; empty without.
        tables: and its tables, by file name.
    """

    table: pd.DataFrame
    converged_nfe: int
    maps: int
    seed: int
    weights: str
    searched: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """solvers.json: the nearest solver at each NFE, and what that rests on."""
        return {
            "recommended": recommend(self.table),
            "converged_nfe": self.converged_nfe,
            "maps": self.maps,
            "seed": self.seed,
            "weights": self.weights,
            **self.searched,
        }


def _distance(field: Tensor, truth: Tensor, inside: Tensor) -> NDArray[np.float64]:
    """Root mean squared difference in the sector of each image's field (N, C, R, R), over its channels too; fields in [−1, 1]."""
    values = inside.sum((1, 2, 3)) * field.shape[1]
    squared = ((field - truth).double() ** 2 * inside).sum((1, 2, 3)) / values
    return squared.sqrt().cpu().numpy()


class Yardstick:
    """Distance of sampled fields from the converged solution of the same maps and noise.

    Args:
        generator: best in float32, so that rounding of the network does not blur small distances.
        tissues, frames: maps (K, 256, 256) and frames (K,); image i has noise (seed, first + i).
        discretization: of the formulation.
        seed, first: of the noise.
        on_evaluation: called after each evaluation of the network, of all K images at once.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        tissues: NDArray[np.uint8],
        frames: NDArray[np.uint8],
        discretization: str,
        seed: int,
        first: int = 0,
        on_evaluation: Callable[[], None] = lambda: None,
    ) -> None:
        self.generator, self.discretization, self.on_evaluation = generator, discretization, on_evaluation
        numbers = range(first, first + len(tissues))
        self.noise = generator.noise(seed, numbers)
        self.guided = generator.guide(tissues, frames)
        self.truth: Tensor | None = None

    def solve(self, settings: SamplerSettings) -> Tensor:
        """Fields (K, 1, R, R) float32."""
        return self.generator.solve(self.guided, self.noise, settings, on_evaluation=self.on_evaluation)

    def converge(self, nfe: int) -> None:
        """Take Heun's solution in `nfe` evaluations as the truth."""
        self.truth = self.solve(SamplerSettings(nfe, "heun", self.discretization))

    def distances(self, nfe: int, solver: str, sigmas: tuple[float, ...] | None = None) -> NDArray[np.float64]:
        """Of each image, (K,), after `converge`: root mean squared difference in the sector, fields in [−1, 1]."""
        assert self.truth is not None
        settings = SamplerSettings(nfe, solver, self.discretization, sigmas=sigmas)
        return _distance(self.solve(settings), self.truth, self.guided.inside)


def study(
    generator: ImageGenerator,
    tissues: NDArray[np.uint8],
    frames: NDArray[np.uint8],
    discretization: str,
    budgets: Sequence[int],
    converged_nfe: int,
    seed: int,
    solvers: Sequence[str] = DETERMINISTIC,
) -> pd.DataFrame:
    """Distance of every solver at every NFE from Heun at `converged_nfe`; steps in float64 throughout.

    Args:
        generator, tissues, frames, discretization, seed: see `Yardstick`.

    Returns:
        columns `COLUMNS`: mean over images with the range of the middle half, and PSNR for fields
        whose range is 2.
    """
    meter = Meter(converged_nfe + sum(budgets) * len(solvers), "converge", "evaluations")
    yardstick = Yardstick(generator, tissues, frames, discretization, seed, on_evaluation=partial(meter.update, 1))
    yardstick.converge(converged_nfe)
    table = measure(yardstick, budgets, solvers)
    meter.close()
    return table


def measure(yardstick: Yardstick, budgets: Sequence[int], solvers: Sequence[str] = DETERMINISTIC) -> pd.DataFrame:
    """`study` of a yardstick that has converged."""
    rows = [[s, n, *summary_of(yardstick.distances(n, s))] for s, n in _pairs(solvers, budgets)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def summary_of(distances: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean, range of the middle half, and PSNR (dB) of the mean, for fields whose range is 2."""
    low, high = np.quantile(distances, [0.25, 0.75])
    mean = float(distances.mean())
    return mean, float(low), float(high), float(-20 * np.log10(max(mean, 1e-12) / 2))


def _pairs(solvers: Sequence[str], budgets: Sequence[int]) -> Iterator[tuple[str, int]]:
    return ((s, n) for n in budgets for s in solvers)


def recommend(table: pd.DataFrame) -> dict[str, str]:
    """The nearest solver at each NFE of the study, keys as JSON needs them."""
    best = table.loc[table.groupby("nfe")["rmse"].idxmin()]
    return {str(n): str(s) for n, s in zip(best["nfe"], best["solver"], strict=True)}


def equal_distance(table: pd.DataFrame, baseline: str, nfe: int) -> dict[str, int]:
    """The least studied NFE at which each solver is at least as near as `baseline` at `nfe`."""
    target = float(table[(table["solver"] == baseline) & (table["nfe"] == nfe)]["rmse"].iloc[0])
    least = {}
    for solver, rows in table.groupby("solver"):
        enough = rows[rows["rmse"] <= target * (1 + 1e-9)]["nfe"]
        if len(enough):
            least[str(solver)] = int(enough.min())
    return least
