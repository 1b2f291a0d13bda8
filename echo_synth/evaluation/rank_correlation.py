"""Spearman's rank correlation of what is measured on datasets with what trainings on them reach, over the datasets.

The interval resamples patients and datasets together: other held-out patients would give other outcomes, other
datasets another choice of cells. Patients are the same for all datasets, and so are their resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
FEWEST = 4  # datasets; of three there are six orders, and a rank correlation says next to nothing
_KEYS = ["dataset", "training"]
COLUMNS = ("measure", "outcome", "rho", "low", "high", "cells", "patients")


@dataclass(frozen=True)
class _Outcomes:
    """One outcome of D datasets.

    Attributes:
        names: of the datasets, D.
        of_all: (D,), over all patients.
        resampled: (R, D), over each resample of patients; NaN where it holds nobody with a value.
    """

    names: list[str]
    of_all: Floats
    resampled: Floats


def rank_correlations(
    measures: pd.DataFrame, outcomes: Mapping[str, pd.DataFrame], repeats: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Spearman's rank correlation of every measure with every outcome.

    An outcome of a dataset is the mean of its values, one training after the other, then over trainings: however often
    a dataset is trained on, it counts once.

    Args:
        measures: a row a dataset, whose name is the index; columns are measures. NaN: not measured.
        outcomes: by name, values with columns dataset, training, patient and value, a row an image or a patient. NaN is
            left out.
        repeats, seed: of the bootstrap.

    Returns:
        Columns COLUMNS, a row a pair that at least FEWEST datasets have: rho (−1 to 1; NaN where the ranks of one side are
        all the same), low and high (percentiles of the resamples that have a rho: a 95 % interval; NaN where none has),
        cells (datasets that count) and patients.
    """
    rows = []
    for outcome, values in outcomes.items():
        if values.empty:
            continue
        of_outcome = _outcomes(values, repeats, seed)
        for measure in measures.columns:
            row = _correlation(measures[measure].dropna(), of_outcome, seed)
            if row is not None:
                rows.append(
                    {
                        "measure": measure,
                        "outcome": outcome,
                        **row,
                        "patients": values.loc[values["value"].notna(), "patient"].nunique(),
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _outcomes(values: pd.DataFrame, repeats: int, seed: int) -> _Outcomes:
    patients, of_patient = np.unique(values["patient"].to_numpy(str), return_inverse=True)
    keys, of_training = np.unique(values[_KEYS].to_numpy(str), axis=0, return_inverse=True)
    count, shape = len(patients), (len(keys), len(patients))
    known = values["value"].notna().to_numpy()
    sums, numbers = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (of_training[known], of_patient[known]), values["value"].to_numpy(np.float64)[known])
    np.add.at(numbers, (of_training[known], of_patient[known]), 1)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), repeats)
    weights = np.vstack([np.ones(count), draws])  # the first row counts everybody once
    total, number = weights @ sums.T, weights @ numbers.T
    means = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    names = [str(name) for name in np.unique(keys[numbers.any(1), 0])]
    by_dataset = [means[:, (keys[:, 0] == name) & numbers.any(1)].mean(1) for name in names]
    found = np.array(by_dataset).reshape(len(names), len(weights))
    return _Outcomes(names, found[:, 0], found[:, 1:].T)


def _correlation(measure: pd.Series[float], outcomes: _Outcomes, seed: int) -> dict[str, float | int] | None:
    """rho with its interval, and the number of datasets that have both; None for too few."""
    both = [i for i, name in enumerate(outcomes.names) if name in measure.index]
    if len(both) < FEWEST:
        return None
    looks = np.asarray(measure.loc[[outcomes.names[i] for i in both]], np.float64)
    resampled = outcomes.resampled[:, both]
    # A stream of its own: which datasets are drawn has nothing to do with which patients are.
    chosen = np.random.default_rng([seed, 1]).integers(0, len(both), resampled.shape)
    replicates = spearman(looks[chosen], np.take_along_axis(resampled, chosen, 1))
    known = replicates[np.isfinite(replicates)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    rho = spearman(looks[None], outcomes.of_all[None, both])[0]
    return {"rho": float(rho), "low": float(low), "high": float(high), "cells": len(both)}


def spearman(x: Floats, y: Floats) -> Floats:
    """Spearman's rank correlation (R,) of the rows of x and y, both (R, N), equal values with their mean rank.

    NaN for a row that holds a NaN, or whose values in x or in y are all the same.
    """
    a, b = (rankdata(v, axis=1).astype(np.float64) - (v.shape[1] + 1) / 2 for v in (x, y))
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    # A row with a NaN has NaN ranks, and no spread that is above 0. Rounding may pass 1.
    return np.divide((a * b).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0).clip(-1, 1)
