"""How near a solver comes in N evaluations to the converged solution of the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from echo_synth.generation.engine import ImageGenerator, SamplerSettings, image_noise
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
    """

    table: pd.DataFrame
    converged_nfe: int
    maps: int
    seed: int

    def summary(self) -> dict[str, Any]:
        """solvers.json: the nearest solver at each NFE, and what that rests on."""
        return {
            "recommended": recommend(self.table),
            "converged_nfe": self.converged_nfe,
            "maps": self.maps,
            "seed": self.seed,
        }


def _distance(field: Tensor, truth: Tensor, inside: Tensor) -> NDArray[np.float64]:
    """Root mean squared difference in the sector of each image's field, fields in [−1, 1]."""
    squared = ((field - truth).double() ** 2 * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
    return squared.sqrt().cpu().numpy()


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
        generator: best in float32, so that rounding of the network does not blur small distances.
        tissues, frames: maps (K, 256, 256) and frames (K,); image i has noise (seed, i).

    Returns:
        columns `COLUMNS`: mean over images with the range of the middle half, and PSNR for fields
        whose range is 2.
    """
    count = len(tissues)
    noise = np.stack([image_noise(seed, i, generator.resolution) for i in range(count)])
    _, inside = generator.labels(tissues, frames)
    meter = Meter(converged_nfe + sum(budgets) * len(solvers), "converge", "evaluations")

    def solve(solver: str, nfe: int) -> Tensor:
        result = generator.fields(tissues, frames, noise, SamplerSettings(nfe, solver, discretization))
        meter.update(nfe)
        return result

    truth = solve("heun", converged_nfe)
    rows = []
    for solver, nfe in _pairs(solvers, budgets):
        d = _distance(solve(solver, nfe), truth, inside)
        low, high = np.quantile(d, [0.25, 0.75])
        rows.append([solver, nfe, d.mean(), low, high, -20 * np.log10(max(float(d.mean()), 1e-12) / 2)])
    meter.close()
    return pd.DataFrame(rows, columns=list(COLUMNS))


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
