"""Volumes and ejection fraction of patients, from folders of masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.evaluation.statistics import number
from echo_synth.metrics.agreement import agreement
from echo_synth.metrics.volumes import Convention, LongAxis, biplane_volumes, long_axis
from echo_synth.parallel import parallel_map
from echo_synth.types import PHASES, VIEWS, CaseId

MEASURES = ("edv_ml", "esv_ml", "ef_percent")
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
_CAVITY, _MYOCARDIUM = 1, 2


def case_axis(case: str, folder: Path) -> LongAxis:
    """Long axis and discs of one mask."""
    mask = read_image(folder / f"{case}{ENDING}")
    return long_axis(mask.pixels == _CAVITY, mask.pixels == _MYOCARDIUM, mask.spacing)


def patient_volumes(folder: Path, cases: Iterable[str], workers: int | None = None) -> pd.DataFrame:
    """Volumes of each patient of whom both views and both phases are among `cases`.

    Returns:
        columns patient, convention, edv_ml, esv_ml, ef_percent; NaN where a cavity is empty.
    """
    known = {(i.patient, i.view, i.phase): c for c in cases for i in [CaseId.parse(c)]}
    patients = sorted({p for p, _, _ in known})
    whole = [p for p in patients if all((p, v, ph) in known for v, ph in product(VIEWS, PHASES))]
    names = [known[p, v, ph] for p in whole for v, ph in product(VIEWS, PHASES)]
    axes = iter(parallel_map(partial(case_axis, folder=folder), names, workers))
    rows = []
    for patient in whole:
        held = {key: next(axes) for key in product(VIEWS, PHASES)}
        rows += [[patient, c, *_measures(held, c)] for c in CONVENTIONS]
    return pd.DataFrame(rows, columns=["patient", "convention", *MEASURES])


def _measures(axes: dict[tuple[str, str], LongAxis], convention: Convention) -> tuple[float, float, float]:
    if any(a.length == 0 for a in axes.values()):
        return (float("nan"),) * 3
    v = biplane_volumes(axes, convention)
    return v.edv, v.esv, v.ef


def compare_volumes(predictions: Path, references: Path, cases: Iterable[str], facts: pd.DataFrame | None) -> pd.DataFrame:  # fmt: skip
    """volumes.csv: patient, convention, each measure of the predictions and (…_reference) of the references, ef_cfg.

    `ef_cfg` is the EF that CAMUS's own file states, where `facts` (columns patient, ef) knows it.
    """
    names = sorted(cases)
    table = patient_volumes(predictions, names).merge(
        patient_volumes(references, names), on=["patient", "convention"], suffixes=("", "_reference"), validate="one_to_one"
    )  # fmt: skip
    known = facts is not None and "ef" in facts
    stated = facts.groupby("patient")["ef"].first() if facts is not None and known else pd.Series(dtype=float)
    return table.assign(ef_cfg=table["patient"].map(stated).astype(float))


def volume_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """The "volumes" part of metrics.json: agreement of the predictions with the reference masks, and with the cfg's EF.

    The main entries are in CAMUS's convention; "clinical" holds the other.
    """
    result: dict[str, Any] = {}
    for convention in CONVENTIONS:
        rows = table[table["convention"] == convention]
        found = {m: _agreement(rows[m], rows[f"{m}_reference"]) for m in MEASURES}
        if rows["ef_cfg"].notna().any():
            found["ef_percent_against_cfg"] = _agreement(rows["ef_percent"], rows["ef_cfg"])
            found["reference_ef_percent_against_cfg"] = _agreement(rows["ef_percent_reference"], rows["ef_cfg"])
        result[convention] = found
    empty = int(table.loc[table["convention"] == "camus", "ef_percent"].isna().sum())
    return {**result["camus"], "convention": "camus", "clinical": result["clinical"], "patients_without_volume": empty}


def _agreement(measured: pd.Series, reference: pd.Series) -> dict[str, Any]:
    found = asdict(agreement(measured.to_numpy(np.float64), reference.to_numpy(np.float64)))
    return {
        k: [number(x) for x in v] if isinstance(v, tuple) else number(v) if k != "n" else v for k, v in found.items()
    }
