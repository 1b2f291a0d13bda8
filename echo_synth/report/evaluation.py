"""The folder of one evaluation: metrics.json, its tables, figures and summary.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.data.subject import heart, subject_of
from echo_synth.data.tissue_colours import in_words
from echo_synth.errors import DataError
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.masks import CaseMasks
from echo_synth.evaluation.results import Metrics
from echo_synth.evaluation.segmentation import SegmentationResult
from echo_synth.evaluation.view_statistics import truth_and_probability, view_names
from echo_synth.files import read_json, write_atomic, write_bytes, write_json, write_text
from echo_synth.folders import maker
from echo_synth.outputs import check_results, new_results
from echo_synth.report import evaluation_figures as figures
from echo_synth.report.tables import summary

if TYPE_CHECKING:  # it brings torch, which a table does not need
    from echo_synth.evaluation.views import ViewResult


MADE_BY = "bootstrap-eval"
WORST_COLUMNS = 2
METRICS_FILE = "metrics.json"
_FILES = (
    *("per_case.csv", "per_case_native.csv", "volumes.csv", "long_axes.csv", "views.csv", "summary.md"),
    *("scores.png", "bland_altman.png", "classification.png", "worst.png"),
)


def check_evaluation(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Raise ExistsError unless an evaluation may be written into `folder`; touches nothing.

    One that was cut off (no metrics.json) may be written again, and so may the same one: the same
    settings of the same inputs.
    """
    ours = folder.is_dir() and maker(folder) == MADE_BY
    again = ours and (not (folder / METRICS_FILE).exists() or _settings_of(folder) == json.loads(json.dumps(settings)))
    check_results(folder, MADE_BY, [METRICS_FILE, *_FILES], overwrite or again)


def _settings_of(folder: Path) -> Any:
    try:
        return read_json(folder / "settings.json")
    except DataError:
        return None


def write_evaluation(
    folder: Path,
    settings: Mapping[str, Any],
    segmentation: SegmentationResult | None = None,
    references: Path | None = None,
    views: ViewResult | None = None,
) -> Metrics:
    """Write what was measured into `folder`; returns the content of metrics.json.

    What an earlier evaluation left gives way once all is written, see `outputs.new_results`.

    Args:
        references: folder of the reference masks, beside which the images of the worst cases lie.
    """
    metrics = Metrics()
    with new_results(folder, MADE_BY, [METRICS_FILE, *_FILES]) as new:
        if segmentation is not None:
            metrics |= segmentation.metrics
            _write_segmentation(new, segmentation, references)
        if views is not None:
            metrics |= views.metrics
            _write_views(new, views)
        metrics["settings"] = dict(settings)
        write_json(new / "settings.json", metrics["settings"])
        write_text(new / "summary.md", summary(metrics))
        write_json(new / METRICS_FILE, metrics)
    return metrics


def _write_segmentation(folder: Path, result: SegmentationResult, references: Path | None) -> None:
    tables = result.tables
    _write_table(folder / "per_case.csv", tables.per_case)
    if len(tables.lengths):
        _write_table(folder / "long_axes.csv", tables.lengths)
    if tables.native is not None:
        _write_table(folder / "per_case_native.csv", tables.native)
    first = next(((name, _of_all_trainings(arm.per_case)) for name, arm in result.baselines.items()), None)
    write_bytes(folder / "scores.png", figures.png(figures.score_boxes(_of_all_trainings(tables.per_case), first)))
    if len(tables.volumes):
        _write_table(folder / "volumes.csv", tables.volumes)
        drawing = figures.bland_altman(tables.volumes, result.metrics["volumes"])
        write_bytes(folder / "bland_altman.png", figures.png(drawing))
    overlays = [_overlay(score, masks, references) for score, masks in result.worst]
    if not overlays:
        return
    worst = figures.worst_cases(overlays, WORST_COLUMNS)
    write_bytes(folder / "worst.png", figures.png(worst, panels=(WORST_COLUMNS, -(-len(overlays) // WORST_COLUMNS))))


def _of_all_trainings(per_case: pd.DataFrame) -> pd.DataFrame:
    """One row a case and structure: the mean over trainings of each score."""
    return per_case.groupby(["case", "structure"], sort=False)[list(METRICS)].mean().reset_index()


def _write_views(folder: Path, result: ViewResult) -> None:
    _write_table(folder / "views.csv", result.views)
    drawing = figures.classification(*truth_and_probability(result.views), view_names(result.views))
    write_bytes(folder / "classification.png", figures.png(drawing))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomic(path, lambda temporary: table.to_csv(temporary, index=False))


def _overlay(score: float, masks: CaseMasks, references: Path | None) -> figures.Overlay:
    """One of the worst cases, over its image where the dataset has it."""
    truth, (height, width) = masks.reference.pixels, masks.reference.spacing
    image: NDArray[Any] = np.zeros(truth.shape, np.uint8)
    if references is not None:
        file = references.parent / references.name.replace("labels", "images") / f"{masks.case}_0000{ENDING}"
        image = read_image(file).pixels if file.is_file() else image
    title = f"{masks.case}: Dice {score:.2f}"
    subject = subject_of(references.parent) if references is not None else heart()
    outlines = figures.HEART_OUTLINES
    if not subject.is_heart:
        outlines = tuple(((number,), number, in_words(name)) for name, number in subject.labels.items())
    return figures.Overlay(title, image, masks.predictions[0].pixels, truth, height / width, outlines)
