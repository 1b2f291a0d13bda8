"""From volumes of patients to the numbers of metrics.json: agreement, classes of EF, differences of arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.evaluation.differences import correct_family, difference
from echo_synth.evaluation.patient_volumes import CONVENTIONS, MEASURES
from echo_synth.evaluation.results import (
    AgreementScores,
    AxisRatios,
    Difference,
    Differences,
    EfClasses,
    PatientCounts,
    VolumeMeasures,
    VolumeScores,
)
from echo_synth.evaluation.statistics import EF_CLASSES, Resampling, ef_class, number, summarise_arm
from echo_synth.evaluation.trainings import count_without_value, seed_columns
from echo_synth.metrics import bootstrap
from echo_synth.metrics.agreement import Agreement, agreement, weighted_kappa

EF_BIAS_MARGIN = 3.0  # points


def volume_metrics(table: pd.DataFrame, lengths: pd.DataFrame, resampling: Resampling) -> VolumeScores:
    """The "volumes" part of metrics.json: agreement of the predictions with the reference masks, and with the cfg's EF.

    The main entries are in CAMUS's convention; "clinical" holds the other.

    Args:
        table: columns of `patient_volumes.compare_volumes`, and seeds where there are several trainings.
        lengths: columns of `patient_volumes.axis_lengths`, of all images that were judged, and seeds as in `table`.
    """
    by_convention = {c: _convention(table[table["convention"] == c], resampling) for c in CONVENTIONS}
    rows = table[table["convention"] == "camus"]
    return VolumeScores(
        **by_convention["camus"],
        convention="camus",
        clinical=by_convention["clinical"],
        ef_classes=_ef_classes(rows, resampling),
        long_axis_ratio=_axis_ratios(lengths),
        **_patients(rows, lengths),
    )


def _patients(rows: pd.DataFrame, lengths: pd.DataFrame) -> PatientCounts:
    """How many patients were judged, and why some of them are not counted."""
    images = pd.concat([lengths[["patient", "view", "phase"]], seed_columns(lengths)], axis=1)
    everybody, several = set(lengths["patient"]), set(lengths.loc[images.duplicated(), "patient"])
    no_reference = set(rows.loc[rows["ef_percent_reference"].isna(), "patient"])
    lost = rows[~rows["patient"].isin(no_reference)].groupby("patient")["ef_percent"].agg(lambda ef: ef.isna().mean())
    return PatientCounts(
        patients=len(everybody),
        patients_without_a_view=len(everybody - several - set(rows["patient"])),
        patients_with_several_images=len(several),
        references_without_volume=len(no_reference),
        patients_without_volume=int((lost == 1).sum()),
        patients_without_some_volume=int(((lost > 0) & (lost < 1)).sum()),
    )


def _convention(rows: pd.DataFrame, resampling: Resampling) -> VolumeMeasures:
    measures = {m: _agreement(rows, m, f"{m}_reference", resampling) for m in MEASURES}
    if rows["ef_cfg"].notna().any():
        measures["ef_percent_against_cfg"] = _agreement(rows, "ef_percent", "ef_cfg", resampling)
        measures["reference_ef_percent_against_cfg"] = _agreement(rows, "ef_percent_reference", "ef_cfg", resampling)
    return cast(VolumeMeasures, measures)


def _agreement(rows: pd.DataFrame, measured: str, reference: str, resampling: Resampling) -> AgreementScores:
    keys = [seed for _, seed in seed_columns(rows).items()]
    each = [_of_training(r[measured], r[reference]) for _, r in rows.groupby(keys)]
    error = rows[measured] - rows[reference]
    table = rows.assign(case=rows["patient"], bias=error, mae=error.abs())
    bias = summarise_arm(table, "bias", resampling)
    mae = summarise_arm(table, "mae", resampling, (0.0, np.inf))
    lacking = bias.get("trainings_without_value", 0)
    each = [] if lacking else each
    scores = AgreementScores(
        r=_mean([a.r for a in each]),
        icc=_mean([a.icc for a in each]),
        bias=bias["mean"],
        bias_ci95=bias["ci95"],
        mae=mae["mean"],
        mae_ci95=mae["ci95"],
        loa=[_mean([a.loa[end] for a in each]) for end in (0, 1)],
        n=bias["n_patients"],
    )
    if lacking:
        scores["trainings_without_value"] = lacking
    if freedoms := [df for entry in (bias, mae) if (df := entry.get("df")) is not None]:
        scores["df"] = min(freedoms)
    return scores


def _of_training(measured: pd.Series, reference: pd.Series) -> Agreement:
    return agreement(measured.to_numpy(np.float64), reference.to_numpy(np.float64))


def _mean(values: list[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _ef_classes(rows: pd.DataFrame, resampling: Resampling) -> EfClasses:
    """Classes of the predicted EF against those of the reference masks; no kappa where a training has none at all."""
    known = rows[rows["ef_percent"].notna() & rows["ef_percent_reference"].notna()]
    truth, predicted = (_class_index(known[c].to_numpy(float)) for c in ("ef_percent_reference", "ef_percent"))

    def count(chosen: NDArray[np.intp]) -> NDArray[np.int64]:
        size = len(EF_CLASSES)
        return np.bincount(truth[chosen] * size + predicted[chosen], minlength=size**2).reshape(size, size)

    ends: tuple[float, float] = (float("nan"), float("nan"))
    table = count(np.arange(len(known)))
    patients = known["patient"].to_numpy(str)
    lacking = count_without_value(rows, "ef_percent") > 0
    if len(set(patients)) > 1 and not lacking:
        _, ends = bootstrap.patient_statistic(
            lambda chosen: weighted_kappa(count(chosen)),
            patients,
            resampling.repeats,
            resampling.seed,
            method=resampling.method,
        )
    return EfClasses(
        labels=list(EF_CLASSES),
        table=table.tolist(),
        kappa=None if lacking else number(weighted_kappa(table)),
        kappa_ci95=[number(end) for end in ends],
    )


def _class_index(ef: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.array([EF_CLASSES.index(name) for name in ef_class(ef) if name is not None], np.intp)


def _axis_ratios(lengths: pd.DataFrame) -> AxisRatios:
    ratio = (lengths["length_mm"] / lengths["length_reference_mm"]).dropna().to_numpy(float)
    quantiles = np.quantile(ratio, [0.5, 0.05, 0.95]) if len(ratio) else np.full(3, np.nan)
    median, low, high = (number(float(q)) for q in quantiles)
    return AxisRatios(
        median=median,
        p05=low,
        p95=high,
        below_085=int((ratio < 0.85).sum()),
        above_115=int((ratio > 1.15).sum()),
        n=len(ratio),
    )


def paired_volumes(
    table: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], resampling: Resampling
) -> Mapping[str, Differences]:
    """Differences of bias and of mean absolute error to baselines, in CAMUS's convention, on patients both measured.

    Two families for Holm's correction, over measures and baselines: do biases differ, do errors?

    Args:
        table, baselines: columns of `patient_volumes.compare_volumes`.

    Returns:
        baseline, measure, "bias" or "mae": the difference, in ml or points of EF.
    """
    ours = _errors(table)
    result: dict[str, dict[str, dict[str, Difference]]] = {}
    for name, baseline in baselines.items():
        theirs = _errors(baseline)
        result[name] = {m: _measure(ours, theirs, m, resampling) for m in MEASURES}
    for kind, more_is_better in (("bias", None), ("mae", False)):
        family = [entries[kind] for measures in result.values() for entries in measures.values()]
        correct_family(family, more_is_better)
    return result


def _errors(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of CAMUS's convention with columns case (the patient), bias_… and mae_… of each measure."""
    rows = table[table["convention"] == "camus"]
    rows = rows.assign(case=rows["patient"])
    for m in MEASURES:
        error = rows[m] - rows[f"{m}_reference"]
        rows = rows.assign(**{f"bias_{m}": error, f"mae_{m}": error.abs()})
    return rows


def _measure(ours: pd.DataFrame, theirs: pd.DataFrame, measure: str, resampling: Resampling) -> dict[str, Difference]:
    margin = EF_BIAS_MARGIN if measure == "ef_percent" else None
    return {
        "bias": difference(ours, theirs, f"bias_{measure}", resampling, margin, None),
        "mae": difference(ours, theirs, f"mae_{measure}", resampling, None, False),
    }
