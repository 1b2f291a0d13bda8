"""What metrics.json holds. Numbers that do not exist (no image, no spread) are null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

Interval = list[float | None]  # low, high


class Estimate(TypedDict):
    """A mean over images; `std` over bootstrap repeats as the paper reports it; 95 % interval, patients resampled."""

    mean: float | None
    std: float | None
    ci95: Interval
    n_images: int
    n_patients: int


# Of one structure: an Estimate for each of `case_scores.METRICS`, in its units, and the number of "empty_predictions".
StructureScores = Mapping[str, Estimate | int]
Segmentation = Mapping[str, StructureScores]  # by structure: lv_endo, lv_epi, la


class Difference(Estimate):
    """Predictions minus baseline on the same images; two-sided p of no difference, before and after Holm's correction."""

    p: float
    p_holm: NotRequired[float]


Differences = Mapping[str, Mapping[str, Difference]]  # by structure, by metric


class AgreementScores(TypedDict):
    """Agreement with a reference over patients (`metrics.agreement`); ml, or points of EF."""

    r: float | None
    bias: float | None
    mae: float | None
    loa: Interval
    n: int


class VolumeMeasures(TypedDict):
    """Agreement in one convention of volumes."""

    edv_ml: AgreementScores
    esv_ml: AgreementScores
    ef_percent: AgreementScores
    ef_percent_against_cfg: NotRequired[AgreementScores]
    reference_ef_percent_against_cfg: NotRequired[AgreementScores]


class VolumeScores(VolumeMeasures):
    """Agreement of volumes: in the main convention, which `convention` names, and in the clinical one."""

    convention: str
    clinical: VolumeMeasures
    patients_without_volume: int


class ViewScores(TypedDict):
    """Scores of the view classifier; 4CH is the positive class. Confusion: row the true class, column the predicted."""

    accuracy: Estimate
    auroc: Estimate
    f1: Estimate
    brier: Estimate
    calibration_error: Estimate
    confusion: list[list[int]]


class Metrics(TypedDict, total=False):
    """metrics.json, as far as there was something to judge."""

    segmentation: Segmentation
    groups: Mapping[str, Mapping[str, Segmentation]]  # by group (view, phase, quality), by its value
    volumes: VolumeScores
    paired: Differences  # against the first baseline
    paired_baselines: Mapping[str, Differences]
    classification: ViewScores
    settings: Mapping[str, Any]
