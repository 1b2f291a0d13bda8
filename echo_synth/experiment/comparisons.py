"""Pairs of cells that a spec asks to be compared: differences on the same held-out images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.differences import paired_differences, verdict
from echo_synth.evaluation.results import Difference, Differences
from echo_synth.evaluation.statistics import Resampling
from echo_synth.metrics.bootstrap import holm


def compare_cells(
    compare: Mapping[str, tuple[str, str]], per_case: Mapping[str, pd.DataFrame], resampling: Resampling
) -> pd.DataFrame:
    """comparisons.csv: a row for each comparison, structure and metric, as far as both arms are done.

    Args:
        compare: (cell, baseline) by the comparison's name.
        per_case: per_case.csv of each cell that is done, by the cell's name: columns of
            `case_scores.CaseScore`. An arm of several trainings is one table that holds all of them,
            with integer columns generator_seed and segmenter_seed that tell them apart; every
            training holds the same cases. Without these columns it is one training.

    Returns:
        Columns comparison, cell, baseline, structure, metric, difference (cell minus baseline), low,
        high (95 % interval), p, n_images, n_patients (those that every training of both has a score
        for), of_images, of_patients (all), covers ("patients", or "patients and trainings" where an
        arm has several: then interval and p know both), trainings and baseline_trainings (how many
        have a score), trainings_without_value (of both; then there is no estimate), margin,
        p_equivalent, p_noninferior (NaN where no margin is stated), p_holm, verdict
        (`differences.verdict`). Holm's correction is over all of `compare`,
        done or not, so that looking early is no advantage; for each structure and metric by
        itself: metrics of one image say much the same, and counting them as tests of their own
        would hide what there is.
    """
    done = {name: pair for name, pair in compare.items() if per_case.keys() >= set(pair)}
    differences = paired_differences({name: (per_case[a], per_case[b]) for name, (a, b) in done.items()}, resampling)
    rows = [
        {"comparison": name, "cell": done[name][0], "baseline": done[name][1]} | _row(structure, metric, difference)
        for name, structures in differences.items()
        for structure, metrics in structures.items()
        for metric, difference in metrics.items()
    ]
    table = pd.DataFrame(rows)
    if len(table):
        table["p_holm"] = table.groupby(["structure", "metric"])["p"].transform(_holm, tests=len(compare))
        table["p_holm"] = table["p_holm"].where(table["p"].notna())  # what could not be tested has none
        table["verdict"] = [_verdict(row, differences) for row in table.to_dict("records")]
    return table


def _row(structure: str, metric: str, difference: Difference) -> dict[str, object]:
    low, high = difference["ci95"]
    trainings, baseline_trainings = difference["trainings"]
    return {
        "structure": structure,
        "metric": metric,
        "difference": difference["mean"],
        "low": low,
        "high": high,
        "p": difference["p"],
        "n_images": difference["n_images"],
        "n_patients": difference["n_patients"],
        "of_images": difference["of_images"],
        "of_patients": difference["of_patients"],
        "covers": difference["covers"],
        "trainings": trainings,
        "baseline_trainings": baseline_trainings,
        "trainings_without_value": difference.get("trainings_without_value", 0),
        "margin": difference.get("margin"),
        "p_equivalent": difference.get("p_equivalent"),
        "p_noninferior": difference.get("p_noninferior"),
    }


def _verdict(row: Mapping[Hashable, Any], differences: Mapping[str, Differences]) -> str:
    metric = str(row["metric"])
    difference = differences[str(row["comparison"])][str(row["structure"])][metric]
    return verdict(difference, float(row["p_holm"]), METRICS[metric].more_is_better)


def _holm(p_values: pd.Series[float], tests: int) -> NDArray[np.float64]:
    """Corrected for `tests`, of which those that are not done, or have no p, count as 1."""
    known = [float(p) if pd.notna(p) else 1.0 for p in p_values]
    return holm(known + [1.0] * (tests - len(known)))[: len(known)]
