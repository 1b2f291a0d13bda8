"""What the name of a foreign image tells: view, phase, patient and split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from echo_synth import specs
from echo_synth.errors import DataError
from echo_synth.foreign.layout import Pair
from echo_synth.types import CaseId

SAFE = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,179}"  # names become file names, with something before them
_VIEWS = {"2ch": "2CH", "a2c": "2CH", "4ch": "4CH", "a4c": "4CH"}
_PHASES = {"ed": "ED", "es": "ES"}
_SPLITS = {
    **dict.fromkeys(("training", "train"), "train"),
    **dict.fromkeys(("validation", "val"), "val"),
    **dict.fromkeys(("testing", "test"), "test"),
}


@dataclass(frozen=True)
class Told:
    """What names tell of one image; None where they do not."""

    patient: str | None
    view: str | None
    phase: str | None
    split: str | None


def told_by(pair: Pair) -> Told:
    """View, phase, patient and split by the file's name, else by the folders around it, the nearest first.

    Raises DataError when a name says two things at once, or cannot become a file name.
    """
    if not re.fullmatch(SAFE, pair.name, re.ASCII):
        raise DataError(
            f"{pair.image.parent}: {pair.name[:60]!a} is not a name of letters, digits, '.', '_', '+' and '-'; rename the file"
        )
    names = (pair.name, *reversed(pair.folders))
    return Told(_patient(pair.name), *(_first(pair, names, known) for known in (_VIEWS, _PHASES, _SPLITS)))


def _first(pair: Pair, names: Sequence[str], known: Mapping[str, str]) -> str | None:
    for name in names:
        found = {known[word] for word in _words(name) if word in known}
        if len(found) > 1:
            raise DataError(f"{pair.image}: says {' and '.join(sorted(found))}; expected one of them, or a --table")
        if found:
            return found.pop()
    return None


def _words(name: str) -> list[str]:
    return re.split(r"[_.+-]+", name.lower())


def _patient(name: str) -> str | None:
    """The first part that is a patient id of CAMUS; else what stands before view and phase, where that ends with a number."""
    pattern = specs.camus().patient_pattern
    known = next((part for part in re.split(r"[_.+-]+", name) if re.fullmatch(pattern, part, re.ASCII)), None)
    if known is not None:
        return known
    try:
        first = CaseId.parse(name).patient
    except DataError:
        return None
    return first if re.fullmatch(r"[A-Za-z]+\d+", first, re.ASCII) else None


def case_name(pair: Pair, patient: str, view: str, phase: str) -> str:
    """patient0001_2CH_ED_…, by which every stage knows patient, view and phase: the image's own name where it is one."""
    start = f"{patient}_{view}_{phase}"
    try:
        if str(CaseId.parse(pair.name)) == start:
            return pair.name
    except DataError:
        pass
    return f"{start}_{pair.name}"
