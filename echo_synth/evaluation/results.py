"""What metrics.json holds. Numbers that do not exist (no image, no spread) are null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

Interval = list[float | None]  # low, high


class Estimate(TypedDict):
    """A mean over images, with its 95 % interval.

    `std` is the paper's: over random subsets of 80 % of the images. It is no standard error, which is
    about three times as large. The interval resamples patients, and knows the trainings too
    where there are several (`trainings` in Metrics); null for one patient. trainings_without_value: of
    several trainings those without any; then nothing is estimated. df: degrees of freedom of an interval that
    knows several; it ends where the metric does.
    """

    mean: float | None
    std: float | None
    ci95: Interval
    n_images: int
    n_patients: int
    trainings_without_value: NotRequired[int]
    df: NotRequired[float | None]


# Of one structure: an Estimate for each of `case_scores.METRICS`, in its units, and the number of "empty_predictions".
StructureScores = Mapping[str, Estimate | int]
Segmentation = Mapping[str, StructureScores]  # by structure: lv_endo, lv_epi, la


class Difference(Estimate):
    """Predictions minus baseline on the same images: those of all (of_images, of_patients) that every training has a score for.

    p, p_holm: two-sided, of no difference, before and after Holm's correction. covers: what interval
    and p know of, "patients" or "patients and trainings"; trainings: how many of either side have a score.
    margin: a difference without consequence; p_equivalent: of its being larger, either way;
    p_noninferior: of its being larger the wrong way. verdict: `differences.verdict`, by the interval.
    share, share_ci95: the predictions' mean as a share of the baseline's on these images, whose mean is taken as known.
    """

    p: float | None
    p_holm: NotRequired[float | None]
    covers: str
    trainings: list[int]
    of_images: int
    of_patients: int
    margin: NotRequired[float]
    p_equivalent: NotRequired[float | None]
    p_noninferior: NotRequired[float | None]
    verdict: NotRequired[str]
    share: NotRequired[float]
    share_ci95: NotRequired[list[float]]


class Failures(TypedDict):
    """Predictions of a structure that went wrong, counted over all trainings."""

    islands: int
    hd_above_10mm: int
    empty: int
    n_predictions: int


class Trainings(TypedDict):
    """The trainings behind the predictions: folders, different seeds, and what the intervals know of."""

    folders: list[str]
    generator_seeds: int
    segmenter_seeds: int
    intervals_cover: str


Differences = Mapping[str, Mapping[str, Difference]]  # by structure, by metric


class AgreementScores(TypedDict):
    """Agreement with a reference over patients (`metrics.agreement`); ml, or points of EF.

    Of several trainings the mean of each number; bias_ci95, mae_ci95 and trainings_without_value are those of an
    `Estimate`, df is the smaller of both.
    """

    r: float | None
    icc: float | None
    bias: float | None
    bias_ci95: Interval
    mae: float | None
    mae_ci95: Interval
    loa: Interval
    n: int
    trainings_without_value: NotRequired[int]
    df: NotRequired[float]


class EfClasses(TypedDict):
    """Agreement in classes of EF. table: rows the reference's class, columns the prediction's; linear weights."""

    labels: list[str]
    table: list[list[int]]
    kappa: float | None
    kappa_ci95: Interval


class AxisRatios(TypedDict):
    """Long axis of predictions over that of references, image by image: a valve that is misplaced shows here."""

    median: float | None
    p05: float | None
    p95: float | None
    below_085: int
    above_115: int
    n: int


class VolumeMeasures(TypedDict):
    """Agreement in one convention of volumes."""

    edv_ml: AgreementScores
    esv_ml: AgreementScores
    ef_percent: AgreementScores
    ef_percent_against_cfg: NotRequired[AgreementScores]
    reference_ef_percent_against_cfg: NotRequired[AgreementScores]


class PatientCounts(TypedDict):
    """Of all judged patients those without a volume, each for the first reason that holds.

    patients_without_a_view lack an image of some view and phase; patients_with_several_images have
    more than one of a view and phase, of which beats is not known; of references_without_volume a
    cavity of the reference is empty; of patients_without_volume a predicted one, in every training.
    patients_without_some_volume are counted, by the trainings that found a cavity.
    """

    patients: int
    patients_without_a_view: int
    patients_with_several_images: int
    references_without_volume: int
    patients_without_volume: int
    patients_without_some_volume: int


class VolumeScores(VolumeMeasures, PatientCounts):
    """Agreement of volumes: in the main convention, which `convention` names, and in the clinical one; who is not counted."""

    convention: str
    clinical: VolumeMeasures
    ef_classes: EfClasses
    long_axis_ratio: AxisRatios


class ViewScores(TypedDict):
    """Scores of the view classifier; 4CH is the positive class. Confusion: row the true class, column the predicted."""

    accuracy: Estimate
    auroc: Estimate
    f1: Estimate
    brier: Estimate
    calibration_error: Estimate  # no interval: it is biased upwards, by more the fewer the images
    calibration_slope: Estimate
    calibration_intercept: Estimate
    confusion: list[list[int]]


class Metrics(TypedDict, total=False):
    """metrics.json, as far as there was something to judge."""

    segmentation: Segmentation
    failures: Mapping[str, Failures]  # by structure
    groups: Mapping[str, Mapping[str, Segmentation]]  # by group (`statistics.GROUPS`), by its value
    segmentation_native: Segmentation  # against references on the images' own grid
    volumes: VolumeScores
    trainings: Trainings
    paired: Differences  # against the first baseline
    paired_baselines: Mapping[str, Differences]
    paired_volumes: Mapping[str, Differences]  # by baseline; measure, then bias and mae
    holm_families: str
    classification: ViewScores
    settings: Mapping[str, Any]
