"""Volumes and ejection fraction of patients, from the masks of both views and both phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

import numpy as np
import pandas as pd

from echo_synth.data.nifti import Image2D
from echo_synth.evaluation.masks import CaseMasks
from echo_synth.metrics.volumes import Convention, LongAxis, biplane_volumes, long_axis
from echo_synth.types import PHASES, VIEWS, CaseId

MEASURES = ("edv_ml", "esv_ml", "ef_percent")
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
_CAVITY, _MYOCARDIUM, _ATRIUM = 1, 2, 3
_COLUMNS = ("patient", "convention", *MEASURES)


@dataclass(frozen=True)
class VentricleAxes:
    """Long axis and discs of one case: of its reference, and of each prediction in the folders' order."""

    identity: CaseId
    reference: LongAxis
    predictions: tuple[LongAxis, ...]


def case_axes(masks: CaseMasks) -> VentricleAxes:
    """Long axes of every mask of one case."""
    return VentricleAxes(masks.identity, mask_axis(masks.reference), tuple(map(mask_axis, masks.predictions)))


def mask_axis(mask: Image2D) -> LongAxis:
    """Long axis and discs of one mask, labels as nnU-Net's datasets have them."""
    cavity, myocardium, atrium = (mask.pixels == label for label in (_CAVITY, _MYOCARDIUM, _ATRIUM))
    return long_axis(cavity, myocardium, mask.spacing, atrium)


def patient_volumes(axes: Mapping[CaseId, LongAxis]) -> pd.DataFrame:
    """Volumes of each patient of whom both views and both phases are known.

    Returns:
        Columns patient, convention (camus, clinical), edv_ml, esv_ml (ml), ef_percent (%): a row a
        patient and convention, by patient; NaN where a cavity is empty.
    """
    rows: list[list[object]] = []
    for patient in sorted({identity.patient for identity in axes}):
        wanted = {(view, phase): CaseId(patient, view, phase) for view, phase in product(VIEWS, PHASES)}
        if axes.keys() >= set(wanted.values()):
            ventricle = {key: axes[identity] for key, identity in wanted.items()}
            rows += [[patient, c, *_measures(ventricle, c)] for c in CONVENTIONS]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _measures(axes: dict[tuple[str, str], LongAxis], convention: Convention) -> tuple[float, float, float]:
    if any(a.length == 0 for a in axes.values()):
        return (float("nan"),) * 3
    volumes = biplane_volumes(axes, convention)
    return volumes.edv, volumes.esv, volumes.ef


def compare_volumes(axes: Sequence[VentricleAxes], case_facts: pd.DataFrame | None, folder: int = 0) -> pd.DataFrame:
    """volumes.csv: volumes of predictions beside those of the reference masks.

    Args:
        axes: of every case.
        case_facts: columns of `inputs.read_case_facts`; its ef is that of CAMUS's own file.
        folder: which of the predictions.

    Returns:
        Columns patient, convention, edv_ml, esv_ml, ef_percent, the same with _reference, ef_cfg (%;
        NaN where unknown). Patients with several images of a view and phase are left out: which belong to one beat is not known.
    """
    images = Counter(a.identity for a in axes)
    several = {identity.patient for identity, number in images.items() if number > 1}
    axes = [a for a in axes if a.identity.patient not in several]
    predicted = patient_volumes({a.identity: a.predictions[folder] for a in axes})
    reference = patient_volumes({a.identity: a.reference for a in axes})
    keys = ["patient", "convention"]
    table = predicted.merge(reference, on=keys, suffixes=("", "_reference"), validate="one_to_one")
    stated = pd.Series(dtype=float)
    if case_facts is not None and "ef" in case_facts:
        stated = case_facts.groupby("patient")["ef"].first()
    return table.assign(ef_cfg=table["patient"].map(stated).astype(float))


def axis_lengths(axes: Sequence[VentricleAxes], folder: int = 0) -> pd.DataFrame:
    """long_axes.csv: columns case, patient, view, phase, length_mm, length_reference_mm; NaN for an empty cavity."""
    rows = [
        (str(a.identity), a.identity.patient, a.identity.view, a.identity.phase, a.predictions[folder], a.reference)
        for a in axes
    ]
    names = ["case", "patient", "view", "phase", "length_mm", "length_reference_mm"]
    table = pd.DataFrame(rows, columns=names)
    for name in names[-2:]:
        lengths = np.array([axis.length for axis in table[name]])
        table[name] = np.where(lengths > 0, lengths, np.nan)
    return table
