"""From scores of cases to the numbers of metrics.json: means, intervals, groups, failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.results import Estimate, Failures, Segmentation, StructureScores
from echo_synth.evaluation.trainings import arm_of, count_without_value
from echo_synth.metrics import bootstrap
from echo_synth.metrics.bootstrap import Method
from echo_synth.metrics.random_effects import MeanEstimate, arm_mean

GROUPS = ("view", "phase", "quality", "sex", "age_group", "ef_class")
AGE_GROUPS = ((60, "below 60"), (70, "60 to 69"), (80, "70 to 79"), (float("inf"), "80 and above"))  # years
EF_CLASSES = (
    "40 and below",
    "41 to 49",
    "50 and above",
)  # %, whole numbers (ESC 2021: reduced, mildly reduced, preserved)
FAR_MM = 10.0
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-np.inf, np.inf)


@dataclass(frozen=True)
class Resampling:
    """How the bootstrap is done: repeats, seed, and the form of the patient-level intervals."""

    repeats: int = 1000
    seed: int = 0
    method: Method = "bca"


def summarise(values: NDArray[np.float64], patients: NDArray[np.str_], resampling: Resampling) -> Estimate:
    """Mean of values (N,), one an image, with its bootstrap spread and patient-level interval.

    Args:
        values: NaN is left out.
        patients: (N,), whose image it is. Of one patient alone there is no interval.
    """
    finite = np.isfinite(values)
    count = len(set(patients[finite].tolist()))
    _, std = bootstrap.subset_bootstrap(values, resampling.repeats, resampling.seed)
    low = high = float("nan")
    if count > 1:
        low, high = bootstrap.patient_interval(
            values, patients, resampling.repeats, resampling.seed, method=resampling.method
        )
    return Estimate(
        mean=number(float(np.nanmean(values)) if finite.any() else np.nan),
        std=number(std),
        ci95=[number(low), number(high)],
        n_images=int(finite.sum()),
        n_patients=count,
    )


def summarise_arm(rows: pd.DataFrame, column: str, resampling: Resampling, bounds: Bounds = UNBOUNDED) -> Estimate:
    """Mean of a column over images and, where the table holds several, trainings; then its interval knows both.

    Args:
        rows: columns case, patient, `column`, and seeds where there are several trainings. Where one of these
            has no value, there is no estimate.
        bounds: the least and the most that a value can be, at which the interval ends at the latest.
    """
    if lacking := count_without_value(rows, column):
        return no_estimate() | {"trainings_without_value": lacking}
    by_case = rows.groupby("case").agg({column: "mean", "patient": "first"})
    summary = summarise(by_case[column].to_numpy(float), by_case["patient"].to_numpy(str), resampling)
    estimate = arm_mean(arm_of(rows, column)) if summary["n_patients"] > 1 else None
    if estimate is not None and estimate.knows_trainings:
        return cast(Estimate, {**summary, **of_trainings(estimate, bounds)})
    return summary


def of_trainings(estimate: MeanEstimate, bounds: Bounds = UNBOUNDED) -> dict[str, Any]:
    """mean, ci95 and df of an Estimate that knows the trainings; few of them give intervals by Student's t beyond what can be."""
    low, high = np.clip(estimate.interval(), *bounds)
    ends = [number(low), number(high)]
    return {"mean": number(estimate.mean), "ci95": ends, "df": number(estimate.df)}


def no_estimate() -> Estimate:
    """An Estimate of nothing."""
    return Estimate(mean=None, std=None, ci95=[None, None], n_images=0, n_patients=0)


def covers(estimate: MeanEstimate) -> Literal["patients", "patients and trainings"]:
    """What an interval knows of: another training would differ, which one training cannot say."""
    return "patients and trainings" if estimate.knows_trainings else "patients"


def segmentation_metrics(per_case: pd.DataFrame, resampling: Resampling) -> Segmentation:
    """The "segmentation" part of metrics.json, from columns of `case_scores.CaseScore`."""
    return {str(name): _structure(rows, resampling) for name, rows in per_case.groupby("structure", sort=False)}


def _structure(rows: pd.DataFrame, resampling: Resampling) -> StructureScores:
    scores = {name: summarise_arm(rows, name, resampling, (0.0, metric.most)) for name, metric in METRICS.items()}
    return {**scores, "empty_predictions": int(rows["empty_prediction"].sum())}


def grouped_metrics(per_case: pd.DataFrame, resampling: Resampling) -> Mapping[str, Mapping[str, Segmentation]]:
    """The "groups" part: the same numbers by view, phase, image quality, sex, age and stated EF, as far as known."""
    table = with_groups(per_case)
    known = [group for group in GROUPS if group in table and table[group].notna().any()]
    return {
        group: {str(value): segmentation_metrics(rows, resampling) for value, rows in table.groupby(group)}
        for group in known
    }


def with_groups(per_case: pd.DataFrame) -> pd.DataFrame:
    """`per_case` with columns age_group and ef_class (text; missing where unknown) from age (years) and ef (%)."""
    table = per_case.copy()
    if "age" in table:
        table["age_group"] = [_age_group(age) for age in pd.to_numeric(table["age"], errors="coerce")]
    if "ef" in table:
        table["ef_class"] = ef_class(pd.to_numeric(table["ef"], errors="coerce").to_numpy(float))
    return table


def _age_group(age: float) -> str | None:
    return next((name for limit, name in AGE_GROUPS if age < limit), None)


def ef_class(ef: NDArray[np.float64]) -> list[str | None]:
    """Class of each ejection fraction (N,), %, rounded to whole numbers first; None where it is NaN."""
    bounds = np.array([40.5, 49.5])
    return [EF_CLASSES[int(np.searchsorted(bounds, value, "right"))] if np.isfinite(value) else None for value in ef]


def failure_rates(per_case: pd.DataFrame) -> Mapping[str, Failures]:
    """The "failures" part, by structure: predictions with islands, far from the reference, or empty."""
    return {str(name): _failures(rows) for name, rows in per_case.groupby("structure", sort=False)}


def _failures(rows: pd.DataFrame) -> Failures:
    return Failures(
        islands=int((rows["components"] > 1).sum()),
        hd_above_10mm=int((rows["hd_mm"] > FAR_MM).sum()),
        empty=int(rows["empty_prediction"].sum()),
        n_predictions=len(rows),
    )


def number(value: float) -> float | None:
    """`value` as JSON can hold it: None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None
