"""Evaluation of predicted masks: every mask read once, then scores, volumes and comparisons."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from echo_synth.data.nifti import read_image
from echo_synth.data.subject import subject_of
from echo_synth.evaluation import differences, patient_volumes, statistics, volume_statistics
from echo_synth.evaluation.case_scores import METRICS, CaseScore, score_masks, score_table
from echo_synth.evaluation.masks import CaseMasks, find_native, on_grid_of, pair_cases, read_masks
from echo_synth.evaluation.patient_volumes import VentricleAxes
from echo_synth.evaluation.results import Metrics, Trainings
from echo_synth.evaluation.statistics import Resampling
from echo_synth.evaluation.trainings import Training, find_trainings, with_seeds
from echo_synth.parallel import parallel_map
from echo_synth.progress import track

WORST = 8


@dataclass(frozen=True)
class ArmTables:
    """What was measured of one arm; columns training, generator_seed, segmenter_seed where it has several trainings.

    Attributes:
        per_case: columns of `case_scores.CaseScore`.
        volumes: columns of `patient_volumes.compare_volumes`; empty without a patient of four masks.
        lengths: columns of `patient_volumes.axis_lengths`; empty, as volumes, where no heart is seen.
        native: as per_case, on the images' own grid; None without such references.
    """

    per_case: pd.DataFrame
    volumes: pd.DataFrame
    lengths: pd.DataFrame
    native: pd.DataFrame | None


@dataclass(frozen=True)
class SegmentationResult:
    """What one evaluation of masks measured.

    Attributes:
        tables: of the predictions; per_case also with quality, ef, sex, age of cases.csv where known.
        baselines: tables of each baseline, by its name.
        worst: masks of the cases of lowest mean Dice in the first training, the lowest first, with that mean; none of
            cases without any structure.
        metrics: the parts of metrics.json that follow.
    """

    tables: ArmTables
    baselines: Mapping[str, ArmTables]
    worst: tuple[tuple[float, CaseMasks], ...]
    metrics: Metrics


@dataclass(frozen=True)
class _Measured:
    """One case: for each folder of predictions the scores, and the axes of a heart's ventricle."""

    scores: tuple[list[CaseScore], ...]
    native: tuple[list[CaseScore], ...]
    axes: VentricleAxes | None


def evaluate_segmentation(
    predictions: Path | Sequence[Path],
    references: Path,
    resampling: Resampling,
    baselines: Mapping[str, Path | Sequence[Path]] | None = None,
    case_facts: pd.DataFrame | None = None,
    native: Path | None = None,
    workers: int | None = None,
) -> SegmentationResult:
    """Judge predicted masks by reference masks.

    Args:
        predictions: folder of CASE.nii.gz, or one a training (`trainings.find_trainings`).
        references: folder of CASE.nii.gz, the same cases.
        baselines: other predictions of the same cases, by name.
        case_facts: columns of `inputs.read_case_facts`, for groups and the stated EF.
        native: references on the images' own grid (`masks.find_native`), to be scored on as well:
            what a prediction at 256 x 256 loses there belongs to it.
        workers: processes; default: one a core.

    Raises:
        DataError: before any mask is read when the folders hold other cases; for the first pair
            that cannot be compared (`masks.check_pair`).
    """
    named = dict(baselines or {})
    # By position: a baseline may have any name, also the one of the folder that is judged.
    arms = [find_trainings([f] if isinstance(f, Path) else f) for f in (predictions, *named.values())]
    folders = [t.folder for arm in arms for t in arm]
    measured, worst = _measure_all(folders, references, native, workers)
    tables, first = [], 0
    for trainings in arms:
        tables.append(_arm_tables(measured, trainings, first, case_facts))
        first += len(trainings)
    ours, theirs = tables[0], dict(zip(named, tables[1:], strict=True))
    metrics = _metrics(ours, arms[0], theirs, resampling)
    return SegmentationResult(ours, theirs, worst, metrics)


def _measure_all(
    folders: list[Path], references: Path, native: Path | None, workers: int | None
) -> tuple[list[_Measured], tuple[tuple[float, CaseMasks], ...]]:
    """Every case once; and the masks of the worst cases of the first folder, the only ones that stay in memory."""
    for folder in folders:
        cases = pair_cases(folder, references)
    if native is not None:
        for case in cases:
            find_native(native, case)
    measure = partial(_measure, folders=folders, references=references, native=native)
    kept: list[_Measured] = []
    worst: list[tuple[float, CaseMasks]] = []
    for measured, masks in track(parallel_map(measure, cases, workers), len(cases), "score", "cases"):
        kept.append(measured)
        scored = [w for w in [*worst, (_mean_dice(measured.scores[0]), masks)] if np.isfinite(w[0])]
        worst = heapq.nsmallest(WORST, scored, key=lambda w: w[0])
    return kept, tuple(worst)


def _measure(case: str, folders: list[Path], references: Path, native: Path | None) -> tuple[_Measured, CaseMasks]:
    masks = read_masks(case, folders, references)
    subject = subject_of(references.parent)
    score = partial(score_masks, case, structures=subject.structures)
    scores = tuple(score(prediction, masks.reference) for prediction in masks.predictions)
    native_scores: tuple[list[CaseScore], ...] = ()
    if native is not None:
        truth = read_image(find_native(native, case))
        finer = (on_grid_of(case, prediction, truth) for prediction in masks.predictions)
        native_scores = tuple(score(prediction, truth) for prediction in finer)
    axes = patient_volumes.case_axes(masks) if subject.is_heart else None
    return _Measured(scores, native_scores, axes), masks


def _mean_dice(scores: list[CaseScore]) -> float:
    """Mean over structures as far as they are there; infinite where none is: there is nothing to be bad at."""
    known = [s["dice"] for s in scores if np.isfinite(s["dice"])]
    return float(np.mean(known)) if known else float("inf")


def _arm_tables(
    measured: list[_Measured], trainings: Sequence[Training], first: int, case_facts: pd.DataFrame | None
) -> ArmTables:
    """Tables of the arm whose trainings are the folders from `first` on."""
    folders = range(first, first + len(trainings))
    axes = [m.axes for m in measured if m.axes is not None]
    per_case = with_seeds([score_table(row for m in measured for row in m.scores[k]) for k in folders], trainings)
    if case_facts is not None:
        per_case = per_case.merge(case_facts.drop(columns=["patient"]), on="case", how="left", validate="many_to_one")
    native = None
    if all(m.native for m in measured):
        native = with_seeds([score_table(row for m in measured for row in m.native[k]) for k in folders], trainings)
    volumes = [patient_volumes.compare_volumes(axes, case_facts, k) for k in folders]
    lengths = [patient_volumes.axis_lengths(axes, k) for k in folders]
    return ArmTables(per_case, with_seeds(volumes, trainings), with_seeds(lengths, trainings), native)


def _metrics(
    ours: ArmTables, trainings: Sequence[Training], baselines: Mapping[str, ArmTables], resampling: Resampling
) -> Metrics:
    metrics = Metrics(
        segmentation=statistics.segmentation_metrics(ours.per_case, resampling),
        failures=statistics.failure_rates(ours.per_case),
        groups=statistics.grouped_metrics(ours.per_case, resampling),
        trainings=_trainings(trainings),
    )
    if ours.native is not None:
        metrics["segmentation_native"] = statistics.segmentation_metrics(ours.native, resampling)
    if len(ours.volumes):
        metrics["volumes"] = volume_statistics.volume_metrics(ours.volumes, ours.lengths, resampling)
    if baselines:
        paired = differences.paired_metrics(ours.per_case, {n: b.per_case for n, b in baselines.items()}, resampling)
        metrics["paired"] = next(iter(paired.values()))
        metrics["paired_baselines"] = paired
        metrics["holm_families"] = _families(len(paired), len(metrics["segmentation"]), bool(len(ours.volumes)))
    if baselines and len(ours.volumes):
        volumes = {name: b.volumes for name, b in baselines.items()}
        metrics["paired_volumes"] = volume_statistics.paired_volumes(ours.volumes, volumes, resampling)
    return metrics


def _trainings(trainings: Sequence[Training]) -> Trainings:
    return Trainings(
        folders=[str(t.folder) for t in trainings],
        generator_seeds=len({t.generator_seed for t in trainings}),
        segmenter_seeds=len({t.segmenter_seed for t in trainings}),
        intervals_cover="patients and trainings" if len(trainings) > 1 else "patients",
    )


def _families(baselines: int, structures: int, volumes: bool) -> str:
    """Which tests Holm's correction takes together, in words."""
    masks = f"one family a metric ({', '.join(METRICS)}): {structures} structures x {baselines} baselines"
    if not volumes:
        return masks
    return f"{masks}; bias and absolute error of volumes: 3 measures x {baselines} baselines each"
