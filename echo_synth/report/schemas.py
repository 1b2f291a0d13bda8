"""What metrics.json and quality.json hold, as far as the page shows it; further keys are kept as they are.

The page reads folders that anybody can have filled: a file of another program, or a damaged one, is
told from ours here, before anything is drawn of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from echo_synth.evaluation.case_scores import METRICS

Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e12, le=1e12)]
Count = Annotated[int, Field(strict=True, ge=0, le=10**12)]
Interval = tuple[Number | None, Number | None]
Name = Annotated[str, Field(strict=True, max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class Estimate(_Part):
    """A mean with its interval; see `evaluation.results.Estimate`."""

    mean: Number | None = None
    std: Number | None = None
    ci95: Interval | None = None
    n_images: Count | None = None
    n_patients: Count | None = None
    of_images: Count | None = None
    of_patients: Count | None = None
    trainings_without_value: Count | None = None
    df: Number | None = None
    p: Number | None = None
    p_holm: Number | None = None
    covers: Name | None = None
    verdict: Name | None = None


# A score for each of the metrics of the day.
_FIELDS: dict[str, Any] = dict.fromkeys(METRICS, (Estimate | None, None)) | {"empty_predictions": (Count | None, None)}
_Structure = create_model("_Structure", __base__=_Part, **_FIELDS)


class _Trainings(_Part):
    folders: list[Name]
    generator_seeds: Count
    segmenter_seeds: Count


class _Failures(_Part):
    islands: Count
    hd_above_10mm: Count
    empty: Count
    n_predictions: Count


class _EfClasses(_Part):
    labels: tuple[Name, Name, Name]
    table: tuple[tuple[Count, Count, Count], tuple[Count, Count, Count], tuple[Count, Count, Count]]
    kappa: Number | None = None
    kappa_ci95: Interval | None = None


class _AxisRatios(_Part):
    median: Number | None = None
    p05: Number | None = None
    p95: Number | None = None
    below_085: Count
    above_115: Count
    n: Count


class _Agreement(_Part):
    icc: Number | None = None
    bias_ci95: Interval | None = None
    mae_ci95: Interval | None = None
    bias: Number | None
    loa: Interval
    mae: Number | None
    r: Number | None
    n: Count
    trainings_without_value: Count | None = None
    df: Number | None = None


class _Measures(_Part):
    edv_ml: _Agreement
    esv_ml: _Agreement
    ef_percent: _Agreement
    ef_percent_against_cfg: _Agreement | None = None
    reference_ef_percent_against_cfg: _Agreement | None = None


class _Volumes(_Measures):
    clinical: _Measures
    ef_classes: _EfClasses | None = None
    long_axis_ratio: _AxisRatios | None = None
    patients: Count | None = None
    patients_without_a_view: Count | None = None
    patients_with_several_images: Count | None = None
    references_without_volume: Count | None = None
    patients_without_volume: Count | None = None
    patients_without_some_volume: Count | None = None


class _Views(_Part):
    accuracy: Estimate | None = None
    auroc: Estimate | None = None
    f1: Estimate | None = None
    brier: Estimate | None = None
    calibration_error: Estimate | None = None
    calibration_slope: Estimate | None = None
    calibration_intercept: Estimate | None = None


Structures = Mapping[Name, _Structure]  # type: ignore[valid-type]


class MetricsFile(_Part):
    """metrics.json of bootstrap-eval."""

    segmentation: Structures | None = None
    segmentation_native: Structures | None = None
    failures: Mapping[Name, _Failures] | None = None
    trainings: _Trainings | None = None
    groups: Mapping[Name, Mapping[Name, Structures]] | None = None
    volumes: _Volumes | None = None
    paired_baselines: Mapping[Name, Structures] | None = None
    paired_volumes: Mapping[Name, Mapping[Name, Mapping[Name, Estimate]]] | None = None
    holm_families: Name | None = None
    classification: _Views | None = None
    settings: dict[str, Any] | None = None


class _Distances(_Part):
    kernel_distance: Number
    frechet_distance: Number


class _Features(_Part):
    network: Name
    synthetic: _Distances
    unseen_real: _Distances


class _Mean(_Part):
    mean: Number


class _Diversity(_Part):
    network: Name
    synthetic: _Mean
    real: _Mean


class _Median(_Part):
    median: Number | None


class _Texture(_Part):
    axial_mm: _Median
    lateral_mm: _Median
    grain: _Median
    nakagami_m: _Median


class _Intensity(_Part):
    kolmogorov_distance: Number


class _ToldApart(_Part):
    auroc: Number
    ci95: Interval
    images: Count


class _MapAgreement(_Part):
    agreement: Estimate
    limit: Number
    low: Count


class _Share(_Part):
    flagged: Count
    images: Count
    share: Number
    ci95: Interval


class Recall(_Part):
    """How many of planted copies of one change are found."""

    change: Name
    found: Count
    planted: Count
    share: Number
    ci95: Interval


class _Privacy(_Part):
    rate: Number
    synthetic: _Share
    unseen_real: _Share
    limits: Mapping[Name, Number | None] | None = None
    limits_ci95: Mapping[Name, Interval] | None = None
    recall: list[Recall] | None = None


class _Areas(_Part):
    low: Number
    high: Number | None
    images: Number
    ratio: Number | None
    ci95: Interval


class QualityFile(_Part):
    """quality.json of quality."""

    dataset: Name
    intensity: _Intensity
    texture: Mapping[Name, _Texture]
    privacy: _Privacy
    features: _Features | None = None
    diversity: _Diversity | None = None
    real_or_synthetic: _ToldApart | None = None
    agreement: _MapAgreement | None = None
    cavity_areas: list[_Areas] | None = None
    settings: dict[str, Any] | None = None
