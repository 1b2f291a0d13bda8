"""The folder of one evaluation: metrics.json, its tables, figures and summary.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.evaluation.masks import CaseMasks
from echo_synth.evaluation.results import Metrics
from echo_synth.evaluation.segmentation import SegmentationResult
from echo_synth.evaluation.statistics import truth_and_probability
from echo_synth.files import write_atomic, write_bytes, write_json, write_text
from echo_synth.report import evaluation_figures as figures
from echo_synth.report import tables

if TYPE_CHECKING:  # it brings torch, which a table does not need
    from echo_synth.evaluation.views import ViewResult


def write_evaluation(
    folder: Path,
    settings: Mapping[str, Any],
    segmentation: SegmentationResult | None = None,
    references: Path | None = None,
    views: ViewResult | None = None,
) -> Metrics:
    """Write what was measured into `folder`; returns the content of metrics.json.

    Args:
        references: folder of the reference masks, beside which the images of the worst cases lie.
    """
    metrics = Metrics()
    if segmentation is not None:
        metrics |= segmentation.metrics
        _write_segmentation(folder, segmentation, references)
    if views is not None:
        metrics |= views.metrics
        _write_views(folder, views)
    metrics["settings"] = dict(settings)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "settings.json", metrics["settings"])
    write_text(folder / "summary.md", tables.summary(metrics))
    return metrics


def _write_segmentation(folder: Path, result: SegmentationResult, references: Path | None) -> None:
    _write_table(folder / "per_case.csv", result.per_case)
    first = next(iter(result.baselines.items()), None)
    write_bytes(folder / "scores.png", figures.png(figures.score_boxes(result.per_case, first)))
    if len(result.volumes):
        _write_table(folder / "volumes.csv", result.volumes)
        drawing = figures.bland_altman(result.volumes, result.metrics["volumes"])
        write_bytes(folder / "bland_altman.png", figures.png(drawing))
    overlays = [_overlay(score, masks, references) for score, masks in result.worst]
    write_bytes(folder / "worst.png", figures.png(figures.worst_cases(overlays)))


def _write_views(folder: Path, result: ViewResult) -> None:
    _write_table(folder / "views.csv", result.views)
    drawing = figures.classification(*truth_and_probability(result.views))
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
    return figures.Overlay(title, image, masks.predictions[0].pixels, truth, height / width)
