"""Evaluation of predicted masks: every mask read once, then scores, volumes and comparisons."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from echo_synth.evaluation import case_scores, patient_volumes, statistics
from echo_synth.evaluation.case_scores import CaseScore
from echo_synth.evaluation.masks import CaseMasks, pair_cases, read_masks
from echo_synth.evaluation.patient_volumes import VentricleAxes
from echo_synth.evaluation.results import Metrics
from echo_synth.evaluation.statistics import Resampling
from echo_synth.parallel import parallel_map
from echo_synth.progress import track

WORST = 8


@dataclass(frozen=True)
class SegmentationResult:
    """What one evaluation of masks measured.

    Attributes:
        per_case: columns of `case_scores.CaseScore`, and of cases.csv quality, ef, sex, age where known.
        baselines: the same scores of each baseline, by its name.
        volumes: columns of `patient_volumes.compare_volumes`; empty without a patient of four masks.
        worst: masks of the cases of lowest mean Dice, the lowest first, with that mean.
        metrics: the parts of metrics.json that follow: segmentation, groups, volumes, paired.
    """

    per_case: pd.DataFrame
    baselines: Mapping[str, pd.DataFrame]
    volumes: pd.DataFrame
    worst: tuple[tuple[float, CaseMasks], ...]
    metrics: Metrics


@dataclass(frozen=True)
class _Measured:
    """One case: its masks, and for each folder of predictions the scores; axes of predictions, then reference."""

    masks: CaseMasks
    scores: tuple[list[CaseScore], ...]
    axes: VentricleAxes


def evaluate_segmentation(
    predictions: Path,
    references: Path,
    resampling: Resampling,
    baselines: Mapping[str, Path] | None = None,
    case_facts: pd.DataFrame | None = None,
    workers: int | None = None,
) -> SegmentationResult:
    """Judge a folder of predicted masks by reference masks.

    Args:
        predictions, references: folders of CASE.nii.gz, the same cases in both.
        baselines: folders of other predictions of the same cases, by name.
        case_facts: columns of `inputs.read_case_facts`, for groups and the stated EF.
        workers: processes; default: one a core.

    Raises:
        DataError: before any mask is read when the folders hold other cases; for the first pair
            that cannot be compared (`masks.check_pair`).
    """
    baselines = baselines or {}
    folders = [predictions, *baselines.values()]
    for folder in folders:
        cases = pair_cases(folder, references)
    measure = partial(_measure, folders=folders, references=references)
    scores: list[list[CaseScore]] = [[] for _ in folders]
    axes: list[VentricleAxes] = []
    worst: list[tuple[float, CaseMasks]] = []
    for measured in track(parallel_map(measure, cases, workers), len(cases), "score", "cases"):
        for collected, rows in zip(scores, measured.scores, strict=True):
            collected += rows
        axes.append(measured.axes)
        worst = heapq.nsmallest(WORST, [*worst, (_mean_dice(measured.scores[0]), measured.masks)], key=lambda w: w[0])
    per_case, *others = map(case_scores.score_table, scores)
    volumes = patient_volumes.compare_volumes(axes, case_facts)
    if case_facts is not None:
        per_case = per_case.merge(case_facts.drop(columns=["patient"]), on="case", how="left")
    compared = dict(zip(baselines, others, strict=True))
    metrics = _metrics(per_case, compared, volumes, resampling)
    return SegmentationResult(per_case, compared, volumes, tuple(worst), metrics)


def _measure(case: str, folders: list[Path], references: Path) -> _Measured:
    masks = read_masks(case, folders, references)
    scores = tuple(case_scores.score_masks(case, prediction, masks.reference) for prediction in masks.predictions)
    return _Measured(masks, scores, patient_volumes.case_axes(masks))


def _mean_dice(scores: list[CaseScore]) -> float:
    """Mean over structures as far as they are there; infinite where none is, so that such a case is never the worst."""
    known = [s["dice"] for s in scores if np.isfinite(s["dice"])]
    return float(np.mean(known)) if known else float("inf")


def _metrics(
    per_case: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], volumes: pd.DataFrame, resampling: Resampling
) -> Metrics:
    metrics = Metrics(
        segmentation=statistics.segmentation_metrics(per_case, resampling),
        groups=statistics.grouped_metrics(per_case, resampling),
    )
    if len(volumes):
        metrics["volumes"] = patient_volumes.volume_metrics(volumes)
    if baselines:
        paired = statistics.paired_metrics(per_case, baselines, resampling)
        metrics["paired"] = next(iter(paired.values()))
        metrics["paired_baselines"] = paired
    return metrics
