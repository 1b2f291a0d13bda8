"""From scores of cases to the numbers of metrics.json: means, intervals, differences, groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.errors import DataError
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.results import Difference, Differences, Estimate, Segmentation, StructureScores, ViewScores
from echo_synth.metrics import bootstrap, classification
from echo_synth.metrics.bootstrap import Method

GROUPS = ("view", "phase", "quality")


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
        patients: (N,), whose image it is.
    """
    finite = np.isfinite(values)
    _, std = bootstrap.subset_bootstrap(values, resampling.repeats, resampling.seed)
    low, high = bootstrap.patient_interval(
        values, patients, resampling.repeats, resampling.seed, method=resampling.method
    )
    return Estimate(
        mean=number(float(np.nanmean(values)) if finite.any() else np.nan),
        std=number(std),
        ci95=[number(low), number(high)],
        n_images=int(finite.sum()),
        n_patients=len(set(patients[finite].tolist())),
    )


def segmentation_metrics(per_case: pd.DataFrame, resampling: Resampling) -> Segmentation:
    """The "segmentation" part of metrics.json, from columns of `case_scores.CaseScore`."""
    return {str(name): _structure(rows, resampling) for name, rows in per_case.groupby("structure", sort=False)}


def _structure(rows: pd.DataFrame, resampling: Resampling) -> StructureScores:
    patients = rows["patient"].to_numpy(str)
    scores = {m: summarise(rows[m].to_numpy(float), patients, resampling) for m in METRICS}
    return {**scores, "empty_predictions": int(rows["empty_prediction"].sum())}


def grouped_metrics(per_case: pd.DataFrame, resampling: Resampling) -> Mapping[str, Mapping[str, Segmentation]]:
    """The "groups" part: the same numbers by view, by phase and by image quality, as far as they are known."""
    known = [group for group in GROUPS if group in per_case and per_case[group].notna().any()]
    return {
        group: {str(value): segmentation_metrics(rows, resampling) for value, rows in per_case.groupby(group)}
        for group in known
    }


def classification_metrics(views: pd.DataFrame, resampling: Resampling) -> ViewScores:
    """The "classification" part of metrics.json; intervals resample patients.

    Args:
        views: columns patient, view, probability_4CH; a row an image.
    """
    truth, probability = truth_and_probability(views)
    patients = views["patient"].to_numpy(str)
    correct = ((probability >= 0.5) == truth).astype(float)
    statistics: dict[str, Callable[..., float]] = {
        "auroc": classification.auroc,
        "f1": classification.f1,
        "brier": classification.brier,
        "calibration_error": classification.calibration_error,
    }
    scores: dict[str, object] = {"accuracy": summarise(correct, patients, resampling)}
    for name, function in statistics.items():
        scores[name] = _view_score(function, truth, probability, patients, resampling)
    return cast(ViewScores, scores | {"confusion": classification.confusion(truth, probability).tolist()})


def _view_score(
    function: Callable[..., float],
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    patients: NDArray[np.str_],
    resampling: Resampling,
) -> Estimate:
    def statistic(chosen: NDArray[np.intp]) -> float:
        return function(truth[chosen], probability[chosen])

    repeats, seed = resampling.repeats, resampling.seed
    std = bootstrap.subset_statistic(statistic, len(truth), repeats, seed)  # as for accuracy
    _, (low, high) = bootstrap.patient_statistic(statistic, patients, repeats, seed, method=resampling.method)
    return Estimate(
        mean=number(function(truth, probability)),
        std=number(std),
        ci95=[number(low), number(high)],
        n_images=len(truth),
        n_patients=len(set(patients)),
    )


def truth_and_probability(views: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes (N,), 1 for 4CH, and their probabilities, from columns view and probability_4CH."""
    truth = (views["view"] == "4CH").to_numpy().astype(np.int64)
    return truth, views["probability_4CH"].to_numpy(np.float64)


def paired_metrics(
    per_case: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], resampling: Resampling
) -> Mapping[str, Differences]:
    """Mean differences to baselines' predictions of the same cases.

    Each has a patient-level interval, the p-value of a sign-flip test over patients, and that
    p-value after Holm's correction over all structures, metrics and baselines.

    Args:
        per_case, baselines: columns of `case_scores.CaseScore`.

    Returns:
        baseline, structure, metric: the difference.

    Raises DataError when a baseline holds other cases.
    """
    pairs = {name: (per_case, baseline) for name, baseline in baselines.items()}
    differences = paired_differences(pairs, resampling)
    entries = list(_entries(differences))
    for entry, adjusted in zip(entries, bootstrap.holm([e["p"] for e in entries]), strict=True):
        entry["p_holm"] = float(adjusted)
    return differences


def paired_differences(
    pairs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], resampling: Resampling
) -> Mapping[str, Differences]:
    """`paired_metrics`, without the correction, of any pairs: what is compared, and its baseline, by name."""
    result = {}
    for name, (per_case, baseline) in pairs.items():
        both = per_case.merge(baseline, on=["case", "structure"], suffixes=("", "_baseline"), validate="one_to_one")
        if not len(both) == len(per_case) == len(baseline):
            raise DataError(
                f"baseline {name} holds other cases than the predictions; predict the same test cases with both"
            )
        result[name] = {
            str(structure): {m: _difference(rows, m, resampling) for m in METRICS}
            for structure, rows in both.groupby("structure", sort=False)
        }
    return result


def _difference(rows: pd.DataFrame, metric: str, resampling: Resampling) -> Difference:
    difference = (rows[metric] - rows[f"{metric}_baseline"]).to_numpy(float)
    patients = rows["patient"].to_numpy(str)
    p = bootstrap.sign_flip_test(difference, patients, resampling.seed)
    return cast(Difference, {**summarise(difference, patients, resampling), "p": p})


def _entries(paired: Mapping[str, Differences]) -> Iterator[Difference]:
    return (entry for structures in paired.values() for metrics in structures.values() for entry in metrics.values())


def number(value: float) -> float | None:
    """`value` as JSON can hold it: None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None
