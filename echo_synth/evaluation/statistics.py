"""From scores of cases to the numbers of metrics.json: means, intervals, differences, groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.errors import DataError
from echo_synth.evaluation.segmentation import METRICS
from echo_synth.metrics import bootstrap, classification
from echo_synth.metrics.bootstrap import Method

GROUPS = ("view", "phase", "quality")


@dataclass(frozen=True)
class Resampling:
    """How the bootstrap is done: repeats, seed, and the form of the patient-level intervals."""

    repeats: int = 1000
    seed: int = 0
    method: Method = "bca"


def summarise(values: NDArray[np.float64], patients: NDArray[np.str_], how: Resampling) -> dict[str, Any]:
    """mean, std (over bootstrap repeats, the paper's form), patient-level 95 % interval, counts."""
    finite = np.isfinite(values)
    _, std = bootstrap.subset_bootstrap(values, how.repeats, how.seed)
    low, high = bootstrap.patient_interval(values, patients, how.repeats, how.seed, method=how.method)
    return {
        "mean": number(float(np.nanmean(values)) if finite.any() else np.nan), "std": number(std), "ci95": [number(low), number(high)],
        "n_images": int(finite.sum()), "n_patients": len(set(patients[finite].tolist())),
    }  # fmt: skip


def segmentation_metrics(per_case: pd.DataFrame, how: Resampling) -> dict[str, Any]:
    """The "segmentation" part of metrics.json."""
    result: dict[str, Any] = {}
    for name, rows in per_case.groupby("structure", sort=False):
        patients = rows["patient"].to_numpy(str)
        result[str(name)] = {m: summarise(rows[m].to_numpy(float), patients, how) for m in METRICS}
        result[str(name)]["empty_predictions"] = int(rows["empty_prediction"].sum())
    return result


def grouped_metrics(per_case: pd.DataFrame, how: Resampling) -> dict[str, Any]:
    """The "groups" part: the same numbers by view, by phase and by image quality, as far as they are known."""
    return {
        group: {str(value): segmentation_metrics(rows, how) for value, rows in per_case.groupby(group)}
        for group in GROUPS if group in per_case and per_case[group].notna().any()
    }  # fmt: skip


def classification_metrics(predicted: pd.DataFrame, how: Resampling) -> dict[str, Any]:
    """The "classification" part of metrics.json; intervals resample patients."""
    truth, probability = truth_and_probability(predicted)
    patients = predicted["patient"].to_numpy(str)
    correct = ((probability >= 0.5) == truth).astype(float)
    result = {"accuracy": summarise(correct, patients, how)}
    functions: dict[str, Callable[..., float]] = {
        "auroc": classification.auroc, "f1": classification.f1, "brier": classification.brier,
        "calibration_error": classification.calibration_error,
    }  # fmt: skip
    for name, function in functions.items():
        statistic = _of_images(function, truth, probability)
        std = bootstrap.subset_statistic(statistic, len(truth), how.repeats, how.seed)  # as for accuracy
        _, (low, high) = bootstrap.patient_statistic(statistic, patients, how.repeats, how.seed, method=how.method)
        result[name] = {
            "mean": number(function(truth, probability)), "std": number(std), "ci95": [number(low), number(high)],
            "n_images": len(truth), "n_patients": len(set(patients)),
        }  # fmt: skip
    result["confusion"] = classification.confusion(truth, probability).tolist()
    return result


def _of_images(
    function: Callable[..., float], truth: NDArray[np.int64], probability: NDArray[np.float64]
) -> Callable[[NDArray[np.intp]], float]:
    return lambda chosen: function(truth[chosen], probability[chosen])


def truth_and_probability(predicted: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes (N,), 1 for 4CH, and their probabilities."""
    truth = (predicted["view"] == "4CH").to_numpy().astype(np.int64)
    return truth, predicted["probability_4CH"].to_numpy(np.float64)


def paired_metrics(per_case: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], how: Resampling) -> dict[str, Any]:
    """Mean differences to baselines' predictions of the same cases.

    Each has a patient-level interval, the p-value of a sign-flip test over patients, and that
    p-value after Holm's correction over all structures, metrics and baselines.

    Returns:
        baseline, structure, metric: {mean, std, ci95, p, p_holm, n_images, n_patients}.

    Raises DataError when a baseline holds other cases.
    """
    result = paired_differences({name: (per_case, baseline) for name, baseline in baselines.items()}, how)
    entries = list(_entries(result))
    for entry, adjusted in zip(entries, bootstrap.holm([e["p"] for e in entries]), strict=True):
        entry["p_holm"] = float(adjusted)
    return result


def paired_differences(pairs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], how: Resampling) -> dict[str, Any]:
    """`paired_metrics`, without the correction, of any pairs: what is compared, and its baseline, by name."""
    result: dict[str, Any] = {}
    for name, (per_case, baseline) in pairs.items():
        both = per_case.merge(baseline, on=["case", "structure"], suffixes=("", "_baseline"), validate="one_to_one")
        if not len(both) == len(per_case) == len(baseline):
            raise DataError(f"baseline {name} holds other cases than the predictions; predict the same test cases with both")  # fmt: skip
        result[name] = {
            str(structure): {m: _difference(rows, m, how) for m in METRICS}
            for structure, rows in both.groupby("structure", sort=False)
        }
    return result


def _difference(rows: pd.DataFrame, metric: str, how: Resampling) -> dict[str, Any]:
    difference = (rows[metric] - rows[f"{metric}_baseline"]).to_numpy(float)
    patients = rows["patient"].to_numpy(str)
    return summarise(difference, patients, how) | {"p": bootstrap.sign_flip_test(difference, patients, how.seed)}


def _entries(paired: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (entry for structures in paired.values() for metrics in structures.values() for entry in metrics.values())


def number(value: float) -> float | None:
    """`value` as JSON can hold it: None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None
