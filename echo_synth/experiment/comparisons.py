"""Pairs of cells that a spec asks to be compared: differences on the same held-out images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.evaluation.results import Difference
from echo_synth.evaluation.statistics import Resampling, paired_differences
from echo_synth.metrics.bootstrap import holm


def compare_cells(
    compare: Mapping[str, tuple[str, str]], per_case: Mapping[str, pd.DataFrame], resampling: Resampling
) -> pd.DataFrame:
    """comparisons.csv: a row for each comparison, structure and metric, as far as both cells are done.

    Args:
        compare: (cell, baseline) by the comparison's name.
        per_case: per_case.csv of each cell that is done; columns of `case_scores.CaseScore`.

    Returns:
        Columns comparison, cell, baseline, structure, metric, difference (cell minus baseline),
        low, high (patient-level 95 % interval), p, n_images, n_patients, p_holm. Holm's correction is
        over all of `compare`, done or not, so that looking early is no advantage; for each
        structure and metric by itself: metrics of one image say much the same, and counting
        them as tests of their own would hide what there is.
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
    return table


def _row(structure: str, metric: str, difference: Difference) -> dict[str, object]:
    low, high = difference["ci95"]
    return {
        "structure": structure,
        "metric": metric,
        "difference": difference["mean"],
        "low": low,
        "high": high,
        "p": difference["p"],
        "n_images": difference["n_images"],
        "n_patients": difference["n_patients"],
    }


def _holm(p_values: pd.Series[float], tests: int) -> NDArray[np.float64]:
    known = [float(p) for p in p_values]
    return holm(known + [1.0] * (tests - len(known)))[: len(known)]
