"""How real the images of a sweep look against what they teach: its judged datasets as the tables that are correlated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from echo_synth.evaluation.looks import OUTCOMES, look_values, with_ways
from echo_synth.evaluation.rank_correlation import rank_correlations
from echo_synth.evaluation.view_statistics import truth_and_probability
from echo_synth.experiment.stages import Cell
from echo_synth.experiment.workspace import Workspace
from echo_synth.report.reading import read_scores, read_views, read_volumes

_VALUES = ["dataset", "training", "patient", "value"]


def correlate_looks(results: pd.DataFrame, cells: Sequence[Cell], workspace: Workspace, repeats: int) -> pd.DataFrame:
    """correlations.csv: rank correlations of looks and outcomes over the datasets whose images are judged.

    Trainings on the same images, with other seeds or in another row of the grid, are one dataset, and an outcome of it is their mean.

    Args:
        results: results.csv, columns of `looks.looks_of` by column cell.
        repeats: of the bootstrap.

    Returns:
        Columns measure, real_is, outcome, better_is, rho, low, high, cells, patients (`rank_correlation.rank_correlations`,
        `looks.with_ways`); empty where too few datasets are done.

    Raises DataError for a damaged table of an evaluation.
    """
    datasets = judged_images(cells, workspace)
    rows = results[results["cell"].isin(datasets)]
    measures = look_values(rows).set_index(rows["cell"].map(datasets))
    measures = measures[~measures.index.duplicated()]
    parts = [part for cell in cells if cell.name in datasets for part in _values(cell, datasets[cell.name], workspace)]
    outcomes = {
        name: pd.concat([table for of, table in parts if of == name], ignore_index=True)
        for name in OUTCOMES
        if name in {of for of, _ in parts}
    }
    return with_ways(rank_correlations(measures, outcomes, repeats))


def judged_images(cells: Sequence[Cell], workspace: Workspace) -> dict[str, str]:
    """Names of cells whose images are judged, and of the dataset of each: that of the first cell with these images."""
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for cell in cells:
        stage = cell.stage("quality")
        if stage is not None and workspace.done(stage):
            found[cell.name] = names.setdefault(stage.key, cell.dataset)
    return found


def _values(cell: Cell, dataset: str, workspace: Workspace) -> Iterator[tuple[str, pd.DataFrame]]:
    """Outcomes of a cell, each with its values as `rank_correlations` takes them; none before it is evaluated."""
    stage = cell.stage("evaluate")
    if stage is None or not workspace.done(stage):
        return
    folder = workspace.result(stage)
    for name, patients, values in _outcomes(folder):
        table = pd.DataFrame({"patient": patients.astype(str), "value": values})
        yield name, table.assign(dataset=dataset, training=cell.name)[_VALUES]


def _outcomes(folder: Path) -> Iterator[tuple[str, pd.Series[str], pd.Series[float]]]:
    """Name, patients and values of what an evaluation left: Dice (0 to 1), |error of EF| (points), view right (0 or 1)."""
    if (folder / "per_case.csv").is_file():
        scores = read_scores(folder / "per_case.csv")
        for structure, rows in scores.groupby("structure", sort=False):
            yield f"dice_{structure}", rows["patient"], rows["dice"]
    if (folder / "volumes.csv").is_file():
        volumes = read_volumes(folder / "volumes.csv")
        rows = volumes[volumes["convention"] == "camus"]
        yield "ef_mae", rows["patient"], (rows["ef_percent"] - rows["ef_percent_reference"]).abs()
    if (folder / "views.csv").is_file():
        views = read_views(folder / "views.csv")
        truth, probability = truth_and_probability(views)
        yield "accuracy", views["patient"], pd.Series(((probability >= 0.5) == truth).astype(float), views.index)
