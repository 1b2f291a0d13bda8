"""Which foreign images become which cases: names, table, split, spacing, and that no held-out patient is among them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth.data.leakage import refuse_patients_of
from echo_synth.data.nnunet_raw import RawDataset, test_patients
from echo_synth.data.resize import rescale_spacing
from echo_synth.data.tables import Column, Table, read_table
from echo_synth.errors import DataError, LeakageError
from echo_synth.foreign.layout import Found, Pair
from echo_synth.foreign.names import Told, case_name, told_by
from echo_synth.generation.manifest import with_validation
from echo_synth.types import PHASES, VIEWS

TABLE = Table(
    "table",
    "echosynth import-images",
    "image",
    (
        Column("image", "name", "the image's file name, with or without .png", needed=True),
        Column("view", "text", "apical view", needed=True, values=VIEWS),
        Column("phase", "text", "end-diastole or end-systole", needed=True, values=PHASES),
        Column("patient", "name", "whose mask guided it; one name an image where nobody knows"),
        Column("split", "text", "train or val; the same for all images of a patient", values=("train", "val")),
        Column("spacing_row_mm", "number", "of the image, downwards", "mm a pixel", low=1e-3, high=100.0),
        Column("spacing_column_mm", "number", "of the image, sideways", "mm a pixel", low=1e-3, high=100.0),
    ),
)


_SPACING = ("spacing_row_mm", "spacing_column_mm")


@dataclass(frozen=True)
class Asked:
    """What the command was asked for.

    Attributes:
        table: CSV that says what names do not.
        spacing: mm a pixel of the foreign images, (row, column); None where the table or `real` tells it.
        real: dataset of real patients: whose test patients must not be among these, whose splits and spacing hold.
        drop_held_out: leave images of held-out patients out instead of refusing all.
        allow_missing: leave out files that are no pair, and rows of the table without an image.
    """

    table: Path | None = None
    spacing: tuple[float, float] | None = None
    real: RawDataset | None = None
    drop_held_out: bool = False
    allow_missing: bool = False


@dataclass(frozen=True)
class ImportPlan:
    """What is imported.

    Attributes:
        rows: one a case: case, index, map, source_case, patient, view, phase, split, and spacing_row_mm,
            spacing_column_mm where they are known before the image is read, else NaN.
        pairs: files of each row.
        grids: of source cases of `real`: rows, columns and spacing, from which an image's spacing follows.
        notes: what the user should be told.
    """

    rows: pd.DataFrame
    pairs: list[Pair]
    grids: Mapping[str, tuple[tuple[int, int], tuple[float, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def plan_import(found: Found, asked: Asked) -> ImportPlan:
    """Cases of `found`; reads no image.

    Raises:
        DataError: a file without its partner; a view, phase or spacing that nothing tells; a damaged table.
        LeakageError: an image of a held-out patient.
    """
    notes: list[str] = []
    if found.single and not asked.allow_missing:
        raise DataError(f"{found.single[0]}; {_more(found.single)}pass --allow-missing to leave such files out")
    if found.single:
        notes.append(f"left out {len(found.single)} file(s) that are no pair of image and mask")
    told = _tabled(found.pairs, asked) if asked.table else None
    rows, pairs = [], []
    for number, pair in enumerate(found.pairs):
        row = _row(pair, number, told_by(pair), told[pair.name] if told else {})
        if row is not None:
            rows.append(row)
            pairs.append(pair)
    table = pd.DataFrame(rows)
    keep = _keep(table, asked, notes)
    table, pairs = table[keep].reset_index(drop=True), [p for p, k in zip(pairs, keep, strict=True) if k]
    table = _with_splits(table, asked.real).drop(columns=["known_patient"])
    table["index"] = range(len(table))
    grids = _grids(asked.real) if asked.real is not None and asked.spacing is None else {}
    if asked.spacing is not None:
        table["spacing_row_mm"] = table["spacing_row_mm"].fillna(asked.spacing[0])
        table["spacing_column_mm"] = table["spacing_column_mm"].fillna(asked.spacing[1])
    _check_spacing(table, pairs, grids)
    return ImportPlan(table, pairs, grids, notes)


def _more(single: Sequence[str]) -> str:
    return f"and {len(single) - 1} more; " if len(single) > 1 else ""


def _tabled(pairs: Sequence[Pair], asked: Asked) -> dict[str, dict[str, Any]]:
    """Rows of --table by the image's name without ending. Raises DataError where one is missing or too many."""
    assert asked.table is not None
    if not asked.table.is_file():
        found = "not a file" if asked.table.exists() else "missing"
        raise DataError(f"{asked.table}: {found}; --table expects a CSV with columns image, view and phase")
    table = read_table(asked.table, TABLE)
    rows: dict[str, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        name = re.sub(r"\.png$", "", str(row["image"]), flags=re.IGNORECASE)
        if name in rows:
            raise DataError(f"{asked.table}: names {name} twice; expected a row an image")
        rows[name] = {str(k): v for k, v in row.items()}
    missing = [p for p in pairs if p.name not in rows]
    if missing:
        raise DataError(
            f"{asked.table}: no row for {missing[0].image.name}; expected one for each of the {len(pairs)} images"
        )
    spare = sorted(rows.keys() - {p.name for p in pairs})
    if spare and not asked.allow_missing:
        raise DataError(
            f"{asked.table}: names {spare[0]}, of which there is no image with a mask; pass --allow-missing"
        )
    return rows


def _row(pair: Pair, number: int, told: Told, tabled: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of one image; the table counts before the name."""
    given = {key: value for key, value in tabled.items() if isinstance(value, str) or pd.notna(value)}
    view, phase = given.get("view", told.view), given.get("phase", told.phase)
    if view is None or phase is None:
        lacking = "view (2CH or 4CH)" if view is None else "phase (ED or ES)"
        raise DataError(
            f"{pair.image}: neither its name nor a folder around it says the {lacking}; rename it as "
            "patient0001_2CH_ED_0.png, or pass --table"
        )
    patient = given.get("patient", told.patient)
    if patient is not None and "_" in patient:  # case names are taken apart there again
        raise DataError(
            f"{pair.name}: patient {patient}: '_' separates the parts of a case's name; write {patient.replace('_', '-')}"
        )
    name = patient or f"foreign{number + 1:06d}"
    return {
        "case": case_name(pair, name, view, phase),
        "map": pair.name,
        "source_case": f"{name}_{view}_{phase}",
        "patient": name,
        "view": view,
        "phase": phase,
        "split": given.get("split", told.split),
        "known_patient": patient is not None,
        "spacing_row_mm": given.get("spacing_row_mm", float("nan")),
        "spacing_column_mm": given.get("spacing_column_mm", float("nan")),
    }


def _keep(table: pd.DataFrame, asked: Asked, notes: list[str]) -> list[bool]:
    """Which rows are no held-out patient's. Raises LeakageError for such a one, unless it may be left out."""
    testing = table["split"] == "test"  # scripts copy the real test images beside the synthetic ones
    held_out = testing | table["patient"].isin(test_patients(asked.real) if asked.real else set())
    if held_out.any() and not asked.drop_held_out:
        advice = "; pass --drop-held-out to leave their images out"
        if testing.any():
            raise LeakageError(f"{table.loc[testing, 'map'].iloc[0]}: its name says that it is a test image{advice}")
        assert asked.real is not None
        try:
            refuse_patients_of(asked.real, table["patient"], "foreign images")
        except LeakageError as e:
            raise LeakageError(f"{e}{advice}") from None
    if held_out.all():
        raise DataError("no image is left: all are of held-out patients")
    if held_out.any():
        patients = table.loc[held_out, "patient"].nunique()
        notes.append(f"left out {int(held_out.sum())} images of {patients} held-out patients")
    if asked.real is None:
        notes.append("no --real: whether images were drawn from masks of its test patients is not known")
    elif unknown := sorted(set(table.loc[table["known_patient"], "patient"]) - set(asked.real.cases()["patient"])):
        notes.append(
            f"{len(unknown)} patient(s) are not in {asked.real.name} ({unknown[0]}): leakage cannot be checked for them; "
            "are they named as there?"
        )
    nameless = int((~table["known_patient"]).sum())
    if nameless:
        notes.append(f"{nameless} images name no patient: each counts as one of its own, and leakage cannot be checked")
    return [bool(k) for k in ~held_out]


def _with_splits(table: pd.DataFrame, real: RawDataset | None) -> pd.DataFrame:
    """Every patient on one side: that of `real`, else what names or the table say, else training.

    Raises DataError where they say both of one patient.
    """
    known: dict[str, str] = {}
    if real is not None:
        cases = real.cases()
        known = dict(zip(cases["patient"], cases["split"], strict=True))
    told = table.dropna(subset=["split"]).groupby("patient")["split"].agg(lambda s: sorted(set(s)))
    for patient, splits in told.items():
        if str(patient) not in known and len(splits) > 1:
            raise DataError(
                f"{patient}: images of training and of validation; say in --table which split the patient is in"
            )
    own = {str(patient): splits[0] for patient, splits in told.items()}
    chosen = [known.get(p) or own.get(p) or "train" for p in table["patient"]]
    return with_validation(table.assign(split=chosen))


def _grids(real: RawDataset) -> dict[str, tuple[tuple[int, int], tuple[float, float]]]:
    cases = real.cases()
    if not {"rows", "columns"} <= set(cases):
        return {}
    sides, lengths = (cases[[a, b]].to_numpy() for a, b in (("rows", "columns"), _SPACING))
    return {
        str(case): ((int(side[0]), int(side[1])), (float(length[0]), float(length[1])))
        for case, side, length in zip(cases["case"], sides, lengths, strict=True)
    }


def _check_spacing(
    table: pd.DataFrame, pairs: Sequence[Pair], grids: Mapping[str, tuple[tuple[int, int], tuple[float, float]]]
) -> None:
    unknown = table[list(_SPACING)].isna().any(axis=1)
    for lacks, source, pair in zip(unknown, table["source_case"], pairs, strict=True):
        if lacks and source not in grids:
            raise DataError(
                f"{pair.image}: nothing tells the size of its pixels; pass --spacing (mm a pixel), --real with a dataset that "
                "holds its patient, or --table with spacing_row_mm and spacing_column_mm"
            )


def spacing_of(row: Mapping[str, Any], shape: tuple[int, int], plan: ImportPlan) -> tuple[float, float]:
    """mm a pixel, down and across, of an image of `shape`: as told, or so that it shows as much as its real source."""
    told = (float(row[_SPACING[0]]), float(row[_SPACING[1]]))
    if not any(math.isnan(side) for side in told):
        return told
    grid, spacing = plan.grids[row["source_case"]]
    return rescale_spacing(spacing, grid, shape)
