"""What a sweep leaves: results.csv, comparisons.csv and the figures, as far as its cells are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from echo_synth.data.nifti import read_pixels
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError
from echo_synth.evaluation.looks import looks_of
from echo_synth.evaluation.statistics import Resampling
from echo_synth.experiment.cells import repeats_of
from echo_synth.experiment.comparisons import compare_cells
from echo_synth.experiment.looks import correlate_looks, judged_images
from echo_synth.experiment.measured import Throughput
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell, Stage
from echo_synth.experiment.workspace import Workspace
from echo_synth.files import write_bytes, write_text
from echo_synth.report import figures, looks_figures, looks_tables, sweep_figures
from echo_synth.report.reading import read_correlations, read_metrics, read_quality, read_scores, read_sweep_results
from echo_synth.report.sweep_rows import MONEY
from echo_synth.report.tables import PATIENTS

T = TypeVar("T")
Row = dict[str, str | int | float | None]
_WHOLE = ("seed", "count", "nfe", "patients", "dataset", "epochs", "segmenter_seed")  # columns of settings
FILES = (
    "results.csv",
    "comparisons.csv",
    "correlations.csv",
    "images.png",
    "scores.png",
    "throughput.png",
    "pareto.png",
    "looks.png",
)


@dataclass(frozen=True)
class Results:
    """Reads what the cells of a sweep left and writes its tables and figures.

    Args:
        spec: the experiment.
        cells: all of its cells, done or not.
        workspace: where their stages are.
        price: an hour of what draws, for a column with the money: of the whole machine, with `throughput` of one GPU or core
            such as it was measured on; None: no such column.
        throughput: a benchmark that tells the seconds of models instead of their drawing, which shared its machine
            with whatever else ran; None: as drawing took.
    """

    spec: SweepSpec
    cells: Sequence[Cell]
    workspace: Workspace
    price: float | None = None
    throughput: Throughput | None = None

    def publish(self) -> list[str]:
        """Write everything; returns the names of the figures."""
        table = self.write_table()
        names = self.write_figures(table) + self.write_looks(table)
        self.write_comparisons()  # last: what cannot be compared keeps nothing else from being written
        return names

    def write_table(self) -> pd.DataFrame:
        """results.csv: a row a cell, done or not. Returns the table."""
        rows = [self.row(c) for c in self.cells]
        table = pd.DataFrame(rows)
        if judged := judged_images(self.cells, self.workspace):
            table["images_of"] = table["cell"].map(judged)
        # Whole numbers as such where some cells have none: as floats two seeds of eight digits would look the same.
        whole = {n: ["" if r.get(n) is None else str(r[n]) for r in rows] for n in _WHOLE if n in table}
        write_text(self.workspace.out / "results.csv", table.assign(**whole).to_csv(index=False, float_format="%.6g"))
        return table

    def write_looks(self, table: pd.DataFrame) -> list[str]:
        """correlations.csv and looks.png, where the spec asks for quality and datasets are enough; returns the names of figures."""
        file, picture = self.workspace.out / "correlations.csv", self.workspace.out / "looks.png"
        judged = self.spec.quality is not None
        correlations = (
            correlate_looks(table, self.cells, self.workspace, self.spec.repeats) if judged else pd.DataFrame()
        )
        figure = looks_figures.looks(table, correlations)
        if figure is None:  # what is there is of an earlier form of the spec
            file.unlink(missing_ok=True)
            picture.unlink(missing_ok=True)
            return []
        write_text(file, correlations.to_csv(index=False, float_format="%.6g"))
        write_bytes(picture, figures.png(figure))
        return [picture.name]

    def notes(self) -> list[str]:
        """What is to be said of what `publish` wrote: which correlations are not given, where the spec asks for quality."""
        if self.spec.quality is None:
            return []
        file = self.workspace.out / "correlations.csv"
        correlations = read_correlations(file) if file.is_file() else None
        few = looks_tables.few_note(read_sweep_results(self.workspace.out / "results.csv"), correlations)
        return [few] if few else []

    def write_comparisons(self) -> None:
        """comparisons.csv: the pairs that the spec names, as far as both cells are done."""
        file = self.workspace.out / "comparisons.csv"
        compared = {name for pair in self.spec.compare.values() for name in pair}
        scores = {name: table for name in compared if (table := self.scores_of(name)) is not None}
        table = compare_cells(self.spec.compare, scores, Resampling(self.spec.repeats))
        if len(table):
            write_text(file, table.to_csv(index=False, float_format="%.6g"))
        else:  # of an earlier form of the spec
            file.unlink(missing_ok=True)

    def write_figures(self, table: pd.DataFrame) -> list[str]:
        """The figures that `report` shows, as far as there is something to draw; one that no longer holds is removed."""
        drawings: dict[str, Callable[[], Figure | None]] = {
            "images.png": lambda: sweep_figures.image_grid(*self._images_of_one_map()),
            "scores.png": lambda: sweep_figures.scores(table),
            "throughput.png": lambda: sweep_figures.throughput(table),
            "pareto.png": lambda: sweep_figures.cost_front(table),
        }
        made = []
        for name, draw in drawings.items():
            figure = draw()
            if figure is None:
                (self.workspace.out / name).unlink(missing_ok=True)
            else:
                write_bytes(self.workspace.out / name, figures.png(figure))
                made.append(name)
        return made

    def row(self, cell: Cell) -> Row:
        """The cell's line of results.csv, as far as it is done."""
        row: Row = {"cell": cell.name, **cell.columns, "state": self.workspace.state(cell)}
        data, evaluated, judged = cell.stages[0], cell.stage("evaluate"), cell.stage("quality")
        if cell.columns["kind"] in ("synthetic", "bmode") and self.workspace.done(data):
            seconds = self._seconds_per_image(cell)
            row["seconds_per_image"] = seconds
            if self.price is not None and seconds is not None:
                row[MONEY] = self._money(cell, seconds, self.price)
        if evaluated is not None and self.workspace.done(evaluated):
            row |= metric_columns(self._read(read_metrics, evaluated, "metrics.json"))
            row["covers"] = PATIENTS  # a row is one training; comparisons of repeats know both
        if judged is not None and self.workspace.done(judged):
            row |= looks_of(self._read(read_quality, judged, "quality.json"))
        return row

    def _read(self, reader: Callable[[Path], T], stage: Stage, name: str) -> T:
        """What a stage that is done left. Raises DataError that tells how to make it again."""
        try:
            return reader(self.workspace.result(stage) / name)
        except DataError as e:
            raise DataError(f"{e}; {self.workspace.again(stage)}") from None

    def _seconds_per_image(self, cell: Cell) -> float | None:
        """Of a cell whose images are drawn. Physics is no model, and no benchmark measures it."""
        if self.throughput is None or cell.columns["kind"] != "synthetic":
            return self.workspace.seconds_per_image(cell.stages[0])
        return self.throughput.speed(str(cell.columns["model"]), int(cell.columns["nfe"] or 1)).seconds

    def _money(self, cell: Cell, seconds: float, price: float) -> float | None:
        """Of 1000 images at so many seconds each; None where the price is of a GPU or core, and physics drew on the whole machine."""
        if self.throughput is None:
            return 1000 * seconds / 3600 * price
        known = cell.columns["kind"] == "synthetic"
        return 1000 * seconds / 3600 * price * self.throughput.machine.units if known else None

    def per_case(self, cell: Cell) -> pd.DataFrame | None:
        """per_case.csv of the held-out images, once the cell has it."""
        evaluated = cell.stage("evaluate")
        if evaluated is None or not self.workspace.done(evaluated):
            return None
        file = self.workspace.result(evaluated) / "per_case.csv"
        return self._read(read_scores, evaluated, file.name) if file.is_file() else None

    def scores_of(self, name: str) -> pd.DataFrame | None:
        """per_case.csv of a cell, or of all that repeat it, once all are done: with columns generator_seed and segmenter_seed."""
        repeats = repeats_of(name, self.cells)
        tables = [self.per_case(cell) for cell in repeats]
        known = [table for table in tables if table is not None]
        if len(known) < len(tables) or not known:
            return None
        if len(known) == 1:
            return known[0]
        seeds = [self._seeds_of(cell) for cell in repeats]
        labelled = [
            table.assign(generator_seed=generator, segmenter_seed=segmenter)
            for table, (generator, segmenter) in zip(known, seeds, strict=True)
        ]
        return pd.concat(labelled, ignore_index=True)

    def _seeds_of(self, cell: Cell) -> tuple[int, int]:
        """Of the images and of the training; a training without a seed of its own is a new one each time."""
        generator = int(cell.columns.get("seed") or 0)
        own = cell.columns.get("segmenter_seed")
        fixed = self.spec.segmenter.seed if self.spec.segmenter else None
        segmenter = own if own is not None else fixed
        return generator, generator if segmenter is None else int(segmenter)

    def _images_of_one_map(self) -> tuple[dict[tuple[str, int], NDArray[np.uint8]], NDArray[np.uint8] | None]:
        """The first case that every synthetic dataset of the first seed holds, from each of them, and its mask."""
        datasets = dict(self._drawn_datasets())
        shared = sorted(set.intersection(*({*d.cases()["case"]} for d in datasets.values()))) if datasets else []
        if not shared:
            return {}, None
        case = shared[0]
        mask = _read_uint8(next(iter(datasets.values())).label_path(case, "train"))
        return {k: _read_uint8(d.image_path(case, "train")) for k, d in datasets.items()}, mask

    def _drawn_datasets(self) -> Iterator[tuple[tuple[str, int], RawDataset]]:
        for cell in self.cells:
            data, columns = cell.stages[0], cell.columns
            of_grid = columns["kind"] == "synthetic" and columns["seed"] == self.spec.seeds[0]
            if of_grid and self.workspace.is_drawn(data):  # images may have been removed to make room
                yield (str(columns["row"]), int(columns["nfe"] or 0)), self.workspace.drawn(data)


def metric_columns(metrics: Mapping[str, Any]) -> Row:
    """metrics.json as columns: dice_lv_endo, dice_lv_endo_low, …"""
    row: Row = {}
    for name, entry in _entries(metrics):
        ends = [nan if end is None else end for end in entry.get("ci95") or (None, None)]  # one patient has none
        row[name], (row[f"{name}_low"], row[f"{name}_high"]) = entry.get("mean"), ends
        if "p_holm" in entry:
            row[f"{name}_p_within_cell"] = entry["p_holm"]
    if "volumes" in metrics:
        fraction = metrics["volumes"]["ef_percent"]
        row |= {"ef_mae": fraction["mae"], "ef_bias": fraction["bias"]}
        row["ef_mae_low"], row["ef_mae_high"] = fraction.get("mae_ci95") or (None, None)
        row["ef_patients"] = fraction.get("n")
    return row


def _entries(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Column and entry with mean and interval."""
    for structure, by_metric in metrics.get("segmentation", {}).items():
        yield from ((f"{m}_{structure}", e) for m, e in by_metric.items() if isinstance(e, dict))
    yield from ((name, e) for name, e in metrics.get("classification", {}).items() if isinstance(e, dict))
    for structure, by_metric in metrics.get("paired", {}).items():
        yield from ((f"difference_{m}_{structure}", e) for m, e in by_metric.items())


def _read_uint8(path: Path) -> NDArray[np.uint8]:
    return np.asarray(read_pixels(path), np.uint8)
