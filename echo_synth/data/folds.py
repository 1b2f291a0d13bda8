"""Folds of a cross-validation for nnU-Net, by patient: all images of a heart are on one side."""

from __future__ import annotations

import pandas as pd

FOLDS = 5


def patient_folds(cases: pd.DataFrame) -> list[dict[str, list[str]]]:
    """Up to five folds, as nnU-Net's splits_final.json lists them: {"train": cases, "val": cases}.

    Fold 0 is the dataset's own split. The others validate on a quarter of its training patients
    each, so that every patient is validated on once. In a mixture only the dataset that gives
    fold 0's validation cases gives those of the others: validation stays real.

    Args:
        cases: rows of cases.csv with columns case, patient, split, and source in a mixture; test
            cases are left out.

    Returns:
        fewer than five where there are fewer than four training patients; none without
        validation patients.
    """
    known = cases[cases["split"].isin(["train", "val"])]
    validation = known[known["split"] == "val"]
    if validation.empty or len(validation) == len(known):
        return []
    candidates = known[known["split"] == "train"]
    if "source" in known:
        candidates = candidates[candidates["source"].isin(set(validation["source"]))]
    patients = sorted(set(candidates["patient"]))
    groups = [set(patients[start :: FOLDS - 1]) for start in range(FOLDS - 1)]
    folds = [_fold(known, validation)]
    folds += [_fold(known, candidates[candidates["patient"].isin(group)]) for group in groups if group]
    return [fold for fold in folds if fold["train"]]


def _fold(known: pd.DataFrame, validation: pd.DataFrame) -> dict[str, list[str]]:
    """Validation cases against all cases of other patients."""
    training = known[~known["patient"].isin(set(validation["patient"]))]
    return {"train": sorted(training["case"]), "val": sorted(validation["case"])}
