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
    splits = _read(preprocessed / SPLITS)
    if splits is None:
        raise RuntimeError(
            f"{preprocessed / SPLITS}: missing; nnU-Net would split by image and put patients on both sides. "
            f"Give the dataset validation patients (convert-camus --split) and plan it again"
        )
    if raw is not None and (raw / SPLITS).is_file() and splits[: len(_read(raw / SPLITS) or [])] != _read(raw / SPLITS):
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


def _read(file: Path) -> list[dict[str, Any]] | None:
    try:
        splits: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return splits


def _patients(raw: Path | None) -> dict[str, str]:
    """Patient of each case by cases.csv; empty without one."""
    if raw is None or not (raw / "cases.csv").is_file():
        return {}
    with open(raw / "cases.csv", encoding="utf-8", newline="") as f:
        return {row["case"]: row["patient"] for row in csv.DictReader(f)}
