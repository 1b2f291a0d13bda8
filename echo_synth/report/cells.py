"""Pieces of the tables of metrics.json: a section, a score with its interval, a tested difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STRUCTURES = {"lv_endo": "LV endocardium", "lv_epi": "LV epicardium", "la": "Left atrium"}
FEW = 10  # patients, below which an interval says less than it seems to
Rows = list[list[str]]


def structure_names(found: Iterable[str]) -> dict[str, str]:
    """Headings of the structures that were `found`, those of CAMUS's heart in its order; others keep the names of their spec."""
    names = list(dict.fromkeys(found))
    if set(names) <= set(STRUCTURES):
        names = [name for name in STRUCTURES if name in names]
    return {name: STRUCTURES.get(name, name) for name in names}


@dataclass(frozen=True)
class Section:
    """A table with its title and a sentence that says how to read it; the first row is the header."""

    title: str
    rows: Rows
    note: str = ""


def cell(entry: Mapping[str, Any] | None, digits: int) -> str:
    """'0.912 [0.900, 0.923]': mean and patient-level 95 % interval, where there are patients enough for one.

    The paper's "±" (`std`, the spread over subsets of 80 % of the images) is about 0.3 times the
    standard error over patients; beside an interval it would be read as one, so it stays in metrics.json.
    """
    if not entry or entry.get("mean") is None:
        return "–"
    text = f"{entry['mean']:.{digits}f}"
    interval = entry.get("ci95")
    if not interval or None in interval or entry.get("n_patients") in (0, 1):
        return text
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def few_patients(entry: Mapping[str, Any]) -> str:
    """What to say of an interval that rests on fewer than ten patients; empty where there are more."""
    patients = entry.get("n_patients")
    if patients is None or patients >= FEW:
        return ""
    if patients < 2:
        return "One patient: no interval can be given."
    return f"Only {patients} patients: intervals over so few are too narrow."


def lacking_note(entries: Iterable[tuple[str, Mapping[str, Any] | None]]) -> str:
    """Which rows have no estimate because a training has no value; empty where none: label and numbers of each row."""
    lacking = {label: (entry or {}).get("trainings_without_value") or 0 for label, entry in entries}
    told = ", ".join(f"{label} ({count})" for label, count in lacking.items() if count)
    return f"No estimate is given where a training has no value in any image or patient: {told}." if told else ""


def few_trainings(entries: Iterable[tuple[str, Mapping[str, Any] | None]]) -> str:
    """Which rows have intervals that so few trainings give that they say little; empty where none: label and numbers of each row."""
    told = ", ".join(dict.fromkeys(label for label, entry in entries if ((entry or {}).get("df") or 2) < 2))
    few = "Trainings differ and are too few to say by how much (fewer than 2 degrees of freedom); intervals are wide and say little"
    return f"{few}: {told}." if told else ""


def tested(entry: Mapping[str, Any] | None, digits: int) -> str:
    """A difference with its interval, and its p-value and verdict where it was tested; "p –" where it could not be."""
    known = entry or {}
    p, verdict = known.get("p_holm"), known.get("verdict")
    text = cell(entry, digits)
    if known.get("mean") is not None and "p_holm" in known:
        text += f", p {'–' if p is None or known.get('p', p) is None else p_text(p)}"
    return f"{text}; {verdict}" if verdict and verdict not in ("open", "patients alone") else text


def p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def difference_note(
    entries: Mapping[str, Mapping[str, Any]], families: str | None = None, names: Mapping[str, str] = STRUCTURES
) -> str:
    """How the differences were tested, what their intervals know of, and which tests were corrected together.

    Args:
        entries: differences by row, then column.
        names: headings of the rows.
    """
    several = any((e or {}).get("covers") == "patients and trainings" for es in entries.values() for e in es.values())
    note = "Predictions minus baseline on the same images. "
    if several:
        note += "Intervals and p know patients and trainings (random effects, Satterthwaite's degrees of freedom)"
    else:
        note += "One training each: intervals and p (flipping patients' signs) know patients alone, not trainings"
    note += f"; p after Holm's correction{f' ({families})' if families else ''}."
    lacking = lacking_note((names.get(key, key), _most_lacking(es)) for key, es in entries.items())
    few = few_trainings(
        (names.get(key, key), e) for key, es in entries.items() for e in es.values() if isinstance(e, Mapping)
    )
    fewer = {names.get(key, key): _fewest(es) for key, es in entries.items()}
    told = "; ".join(f"{label} {text}" for label, text in fewer.items() if text)
    left = f"Not on all: only what every training of both sides has a score for is compared: {told}." if told else ""
    return " ".join(filter(None, (note, lacking, few, left)))


def _fewest(entries: Mapping[str, Any]) -> str:
    """How much the column of a row rests on that lacks most; empty where none lacks anything."""
    told = {of_all(e): e["n_images"] for e in entries.values() if isinstance(e, Mapping) and of_all(e)}
    return min(told, key=lambda text: told[text], default="")


def of_all(entry: Mapping[str, Any]) -> str:
    """'30 of 60 images, 15 of 30 patients' that a difference rests on; of patients alone where they are what is counted. Empty where on all."""
    counts = [entry.get(key) for key in ("n_images", "of_images", "n_patients", "of_patients")]
    if any(c is None or c != c for c in counts) or counts[0] == counts[1]:
        return ""
    images, all_images, patients, all_patients = (int(c) for c in counts if c is not None)
    of_patients = f"{patients} of {all_patients} patients"
    return of_patients if all_images == all_patients else f"{images} of {all_images} images, {of_patients}"


def _most_lacking(entries: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry of a row that lacks most trainings; a score may be there for some columns only."""
    found = [e for e in entries.values() if isinstance(e, Mapping)]
    return max(found, key=lambda e: e.get("trainings_without_value") or 0, default=None)
