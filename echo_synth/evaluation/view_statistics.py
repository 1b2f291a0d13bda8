"""From probabilities of views to the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.evaluation.results import Estimate, ViewScores
from echo_synth.evaluation.statistics import Resampling, number, summarise
from echo_synth.metrics import bootstrap, classification
from echo_synth.types import VIEWS

Statistic = Callable[[NDArray[np.int64], NDArray[np.float64]], float]
PROBABILITY = "probability_"
_STATISTICS: dict[str, Statistic] = {
    "auroc": classification.auroc,
    "f1": classification.f1,
    "brier": classification.brier,
    "calibration_slope": classification.calibration_slope,
    "calibration_intercept": classification.calibration_intercept,
}
_TAIL = 0.025  # of the resamples: what a 95 % interval leaves out at one end
_SHARES = ("accuracy", "auroc", "f1")  # 1 is the most they can be


def classification_metrics(views: pd.DataFrame, resampling: Resampling) -> ViewScores:
    """The "classification" part of metrics.json; intervals resample patients.

    Where every resample gives the same share, as all images right do, the interval is Wilson's for
    as many successes as there are patients: 50 right patients of 50 do not show that all are. There is
    none where a statistic does not exist in more than 2.5 % of the resamples, as a calibration slope
    where the classes are apart: there it is beyond every bound, and the others alone would end too low.

    Args:
        views: columns patient, view, probability_4CH; a row an image.
    """
    truth, probability = truth_and_probability(views)
    patients = views["patient"].to_numpy(str)
    correct = ((probability >= 0.5) == truth).astype(float)
    scores: dict[str, Estimate] = {"accuracy": summarise(correct, patients, resampling)}
    for name, statistic in _STATISTICS.items():
        scores[name] = _view_score(statistic, truth, probability, patients, resampling)
    error = classification.calibration_error(truth, probability)
    scores["calibration_error"] = _estimate(error, float("nan"), (float("nan"),) * 2, patients)
    for name in _SHARES:
        _open_interval(scores[name])
    return cast(ViewScores, {**scores, "confusion": classification.confusion(truth, probability).tolist()})


def _view_score(
    statistic: Statistic,
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    patients: NDArray[np.str_],
    resampling: Resampling,
) -> Estimate:
    def of_images(chosen: NDArray[np.intp]) -> float:
        return statistic(truth[chosen], probability[chosen])

    repeats, seed = resampling.repeats, resampling.seed
    std = bootstrap.subset_statistic(of_images, len(truth), repeats, seed)  # as for accuracy
    ends = (float("nan"), float("nan"))
    if len(set(patients)) > 1:
        found: list[float] = []

        def kept(chosen: NDArray[np.intp]) -> float:
            found.append(of_images(chosen))
            return found[-1]

        _, ends = bootstrap.patient_statistic(kept, patients, repeats, seed, method=resampling.method)
        if not np.isfinite(found).mean() >= 1 - _TAIL:
            ends = (float("nan"), float("nan"))
    return _estimate(statistic(truth, probability), std, ends, patients)


def _estimate(mean: float, std: float, ends: tuple[float, float], patients: NDArray[np.str_]) -> Estimate:
    return Estimate(
        mean=number(mean),
        std=number(std),
        ci95=[number(ends[0]), number(ends[1])],
        n_images=len(patients),
        n_patients=len(set(patients)),
    )


def _open_interval(score: Estimate) -> None:
    """Wilson's interval in place of one without width, of a share of 1 or 0."""
    low, high = score["ci95"]
    if low is not None and low == high and low in (0.0, 1.0):
        count = score["n_patients"]
        score["ci95"] = list(bootstrap.wilson_interval(round(low * count), count))


def truth_and_probability(views: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes (N,), 1 for 4CH, and their probabilities, from columns view and probability_4CH; of other views accordingly."""
    _, second = view_names(views)
    truth = (views["view"] == second).to_numpy().astype(np.int64)
    return truth, views[f"{PROBABILITY}{second}"].to_numpy(np.float64)


def view_names(views: pd.DataFrame) -> tuple[str, str]:
    """The two views of a table of `downstream.classifier.predict_views`: the second is the one whose probability it states."""
    second = next(str(c).removeprefix(PROBABILITY) for c in views.columns if str(c).startswith(PROBABILITY))
    others = [v for v in views["view"] if v != second]
    return (others[0] if others else VIEWS[0]), second
