"""Folds that keep patients apart: nnU-Net makes its own, by image, where splits_final.json does not have one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

SPLITS = "splits_final.json"


def check(preprocessed: Path, raw: Path | None, fold: int | str) -> None:
    """Refuse what would train on a validation patient.

    Args:
        preprocessed: nnU-Net's folder of the dataset, whose splits it uses.
        raw: the raw dataset, or None where this machine does not have it.
        fold: number of the fold.

    Raises:
        RuntimeError: no splits, not those of the raw dataset, no such fold, one without validation
            cases, or one with a patient on both sides.
    """
    splits = read(preprocessed / SPLITS)
    if splits is None:
        raise RuntimeError(
            f"{preprocessed / SPLITS}: missing; nnU-Net would split by image and put patients on both sides. "
            f"Give the dataset validation patients (convert-camus --split) and plan it again"
        )
    if raw is not None and (raw / SPLITS).is_file() and splits[: len(read(raw / SPLITS) or [])] != read(raw / SPLITS):
        raise RuntimeError(f"{preprocessed / SPLITS}: not the splits of {raw}; remove it and plan the dataset again")
    if not isinstance(fold, int) or not 0 <= fold < len(splits):
        raise RuntimeError(
            f"fold {fold}: {preprocessed / SPLITS} holds {len(splits)} (0 to {len(splits) - 1}); nnU-Net would split "
            f"the rest by image and put patients on both sides. Use one of these, or all"
        )
    train, val = set(splits[fold]["train"]), set(splits[fold]["val"])
    if not train or not val:
        raise RuntimeError(
            f"{preprocessed / SPLITS}: fold {fold} has {len(train)} training and {len(val)} validation cases"
        )
    patients = _patients(raw)
    both = {patients.get(c, c) for c in train} & {patients.get(c, c) for c in val}
    if both:
        raise RuntimeError(
            f"{preprocessed / SPLITS}: {sorted(both)[0]} and {len(both) - 1} more train and validate in fold {fold}"
        )


def read(file: Path) -> list[dict[str, Any]] | None:
    """A splits_final.json, None where there is none. Raises RuntimeError when it is not a list of training and validation cases."""
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as e:
        raise RuntimeError(f"{file}: not readable as JSON ({e!s:.100}); plan the dataset again") from None
    folds = splits if isinstance(splits, list) else [splits]
    sides = [fold.get(side) if isinstance(fold, dict) else None for fold in folds for side in ("train", "val")]
    if not all(isinstance(side, list) and all(isinstance(case, str) for case in side) for side in sides):
        raise RuntimeError(f'{file}: expected a list of {{"train": [CASE], "val": [CASE]}}; plan the dataset again')
    return folds


def _patients(raw: Path | None) -> dict[str, str]:
    """Patient of each case by cases.csv; empty without one."""
    if raw is None or not (raw / "cases.csv").is_file():
        return {}
    with open(raw / "cases.csv", encoding="utf-8", newline="") as f:
        return {row["case"]: row["patient"] for row in csv.DictReader(f)}
