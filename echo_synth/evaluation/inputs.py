"""What an evaluation judges where the command names nothing: the newest predictions, their references, their cases.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import DataError
from echo_synth.home import home, nnunet_folder

FACTS = ("quality", "ef", "sex", "age")


def newest_predictions() -> Path:
    """The newest folder of ECHOSYNTH_HOME/predictions. Raises DataError when there is none."""
    folders = [p for p in (home() / "predictions").glob("*") if any(p.glob(f"*{ENDING}"))]
    if not folders:
        raise DataError(f"{home() / 'predictions'}: no predictions there; pass --predictions")
    return max(folders, key=lambda p: p.stat().st_mtime)


def references_of(predictions: Path) -> Path:
    """labelsTs of the raw dataset that holds the predicted cases. Raises DataError when none does."""
    names = {f.name for f in predictions.glob(f"*{ENDING}")}
    if not names:
        raise DataError(f"{predictions}: no *{ENDING} files; expected segmentations")
    for folder in sorted(nnunet_folder("nnUNet_raw").glob("Dataset*/labelsTs")):
        if names <= {f.name for f in folder.glob(f"*{ENDING}")}:
            return folder
    raise DataError(
        f"{predictions}: no dataset in {nnunet_folder('nnUNet_raw')} holds these cases in labelsTs; pass --references"
    )


def read_case_facts(cases: Path | None, references: Path | None) -> pd.DataFrame | None:
    """What cases.csv knows of each case; None where no file is named and none lies beside the references.

    Returns:
        Columns case, patient (text) and those there of quality (Good, Medium, Poor), ef (%, as the
        cfg states it), sex (F, M), age (years).

    Raises DataError when `cases` is missing or is not a table of cases.
    """
    path = cases or (references.parent / "cases.csv" if references else None)
    if path is None or not path.is_file():
        if cases is not None:
            raise DataError(f"{cases}: missing; expected the cases.csv of convert-camus")
        return None
    table = pd.read_csv(path, dtype={"case": str, "patient": str})
    lacking = {"case", "patient"} - set(table)
    if lacking:
        raise DataError(f"{path}: no column '{min(lacking)}'; expected the cases.csv of convert-camus")
    return table[["case", "patient", *(c for c in FACTS if c in table)]]


def named_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their names; by their whole paths where two names are the same."""
    names = [f.resolve().name for f in folders]
    return {n if names.count(n) == 1 else str(f): f for n, f in zip(names, folders, strict=True)}
