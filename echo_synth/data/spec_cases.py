"""A spec and a folder to cases and their split: every problem named before any image is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from echo_synth.data.camus import assign_splits
from echo_synth.data.dataset_spec import SpecFile, SplitLists
from echo_synth.data.name_pattern import Found, find_files
from echo_synth.errors import DataError, SpecError
from echo_synth.files import read_short_text
from echo_synth.types import CaseId

_MOST_LIST = 1 << 20  # bytes of a list of patients
_LONGEST = 60  # letters of a patient or image in names
_SHOWN = 3  # files that are named as examples


@dataclass(frozen=True)
class SpecCase:
    """Files of one case.

    Attributes:
        name: patient_view_phase, and _im with the image's own text where a patient has several.
    """

    id: CaseId
    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class SpecFiles:
    """What a spec finds.

    Attributes:
        cases: by name.
        missing: names of those left out because their mask is missing.
        passed_over: files beside the images that fit neither pattern.
    """

    cases: list[SpecCase]
    missing: list[str]
    passed_over: list[Path] = field(default_factory=list)


def find_spec_cases(root: Path, file: SpecFile, allow_missing: bool = False) -> SpecFiles:
    """All cases below `root`, each an image and the mask that its name tells.

    Raises:
        DataError: `root` is no folder; a mask is missing (unless `allow_missing`).
        SpecError, with line and key: no file fits, two files are one case, or names that are too long.
    """
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; expected the one below which '{file.spec.images.text}' is found")
    names = {"view": _by_text(file.spec.views), "phase": _by_text(file.spec.phases)}
    others: list[Path] = []
    found = list(find_files(root, file.spec.images, {place: list(texts) for place, texts in names.items()}, others))
    masks = {f.path: root / file.spec.masks.fill(f.values) for f in found}
    all_masks = set(masks.values())
    found = [f for f in found if f.path not in all_masks]  # a mask may fit the images' pattern as well
    if not found:
        raise file.error(["images"], f"no file below {root} fits '{file.spec.images.text}'{_example(root)}")
    files = _pair(found, masks, names, file, allow_missing)
    return replace(files, passed_over=[path for path in others if path not in all_masks])


def _by_text(names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {text: name for name, texts in names.items() for text in texts}


def _example(root: Path) -> str:
    """What is there instead: the first files of the folder and of its first folders."""
    here = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    deeper = [p for folder in here[:_SHOWN] if folder.is_dir() for p in sorted(folder.iterdir())]
    files = [str(p.relative_to(root)) for p in (*here, *deeper) if p.is_file()][:_SHOWN]
    return f"; there are {', '.join(files)}" if files else "; it holds no file"


def _pair(
    found: list[Found], masks: Mapping[Path, Path], names: Mapping[str, Mapping[str, str]], file: SpecFile, allow: bool
) -> SpecFiles:
    patients: dict[str, str] = {}
    cases: dict[str, SpecCase] = {}
    for one in found:
        case = _case(one, masks[one.path], names, file)
        written = one.values["patient"]
        if patients.setdefault(case.id.patient, written) != written:
            other = patients[case.id.patient]
            raise file.error(
                ["images"], f"patients '{other}' and '{written}' would both be '{case.id.patient}'; rename one"
            )
        if case.name in cases:
            raise file.error(
                ["images"],
                f"{cases[case.name].image} and {one.path} are both {case.name}; tell them apart by {{image}}",
            )
        cases[case.name] = case
    missing = [name for name, case in cases.items() if not case.mask.is_file()]
    if missing and not allow:
        first = cases[missing[0]]
        raise DataError(
            f"{first.mask}: missing, the mask of {first.image.name} by {file.at('masks')}; "
            "pass --allow-missing to leave such images out"
        )
    lacking = set(missing)
    whole = [case for name, case in sorted(cases.items()) if name not in lacking]
    if not whole:
        raise file.error(
            ["masks"], f"none of {len(cases)} images has its mask; the first would be {masks[found[0].path]}"
        )
    return SpecFiles(whole, missing)


def _case(one: Found, mask: Path, names: Mapping[str, Mapping[str, str]], file: SpecFile) -> SpecCase:
    view, phase = (
        names[place][one.values[place]] if place in one.values else next(iter(names[place].values()))
        for place in ("view", "phase")
    )
    identity = CaseId(safe_name(one.values["patient"]), view, phase)
    image = f"_im{safe_name(one.values['image'])}" if "image" in one.values else ""
    if max(len(one.values.get(place, "")) for place in ("patient", "image")) > _LONGEST:
        raise file.error(
            ["images"], f"{one.path}: more than {_LONGEST} letters for a patient or image; shorten the name"
        )
    return SpecCase(identity, f"{identity}{image}", one.path, mask)


def safe_name(text: str) -> str:
    """A text of file names as part of a case's name, in which "_" separates."""
    return text.replace("_", "-")


def split_patients(patients: Iterable[str], file: SpecFile, allow_missing: bool) -> dict[str, str]:
    """Split name of each patient, by the spec's lists or shares.

    Raises:
        SpecError, with line and key: a list is missing or names a patient twice; too few patients for the shares.
        DataError: lists and folder hold other patients, see `camus.assign_splits`.
    """
    split = file.spec.split
    if isinstance(split, SplitLists):
        lists = _read_lists(split, file)
        return assign_splits(patients, lists, allow_missing, file.at("split"), "mend the lists")
    names = sorted(set(patients))
    held = {name: _count(share, len(names)) for name, share in (("test", split.test), ("val", split.val))}
    if sum(held.values()) >= len(names):
        raise file.error(
            ["split"], f"of {len(names)} patients {held['test']} test and {held['val']} validate, and none trains"
        )
    order = [names[i] for i in np.random.default_rng(split.seed).permutation(len(names))]
    test, val = set(order[: held["test"]]), set(order[held["test"] : held["test"] + held["val"]])
    return {p: "test" if p in test else "val" if p in val else "train" for p in names}


def _count(share: float, patients: int) -> int:
    """Patients of a share: at least one where it is not 0."""
    return max(1, round(share * patients)) if share else 0


def _read_lists(split: SplitLists, file: SpecFile) -> dict[str, list[str]]:
    seen: dict[str, str] = {}
    result: dict[str, list[str]] = {}
    for name in ("train", "val", "test"):
        listed = getattr(split, name)
        if listed is None:
            continue
        path = file.path.parent / listed
        if not path.is_file():
            raise file.error(["split", name], f"{path} is missing; expected a patient a line")
        result[name] = sorted({_listed_patient(word, path) for word in _words(path)})
        for patient in result[name]:
            if seen.setdefault(patient, name) != name:
                raise file.error(["split", name], f"{path} lists {patient}, which is in {seen[patient]} too")
    return result


def _words(path: Path) -> list[str]:
    return read_short_text(path, _MOST_LIST, "one patient a line", SpecError).split()


def _listed_patient(word: str, path: Path) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", word):
        raise SpecError(f"{path}: {f'{word:.60}'!a} is no patient that a file name could hold")
    return safe_name(word)
