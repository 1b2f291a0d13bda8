"""Patient lists: which patients are for training, validation and testing."""

from __future__ import annotations

import re
from pathlib import Path

from echo_synth import specs
from echo_synth.errors import SpecError
from echo_synth.files import read_short_text

_MOST_LIST = 1 << 20  # bytes of a list of patients


def official_split() -> dict[str, list[str]]:
    """CAMUS's published patient lists by split name (train, val, test)."""
    return read_split(specs.root() / "splits" / "official")


def read_split(folder: Path) -> dict[str, list[str]]:
    """Patient ids of each split (train, val, test) from a folder of CAMUS's subgroup files.

    Raises SpecError for a missing or unreadable file, a malformed line, or a patient that is
    listed twice.
    """
    result: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for name, filename in specs.camus().split_files.items():
        path = folder / filename
        if not path.is_file():
            raise SpecError(
                f"{path}: missing; --split expects a folder with {', '.join(specs.camus().split_files.values())}"
            )
        patients = read_short_text(path, _MOST_LIST, "one patient a line", SpecError).split()
        for p in patients:
            if not re.fullmatch(specs.camus().patient_pattern, p, re.ASCII):
                raise SpecError(f"{path}: {f'{p:.60}'!a} is not a patient id such as patient0001")
            if p in seen:
                raise SpecError(f"{path}: {p} is listed twice (also in {seen[p]}); each patient belongs to one split")
            seen[p] = filename
        result[name] = sorted(patients)
    return result
