"""CAMUS on disk to cases: both releases, every problem named before any work starts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from echo_synth import specs
from echo_synth.data.cfg import CfgValue, read_cfg
from echo_synth.errors import DataError
from echo_synth.types import CaseId

# Our name of each cfg field; the ejection fraction is EF in one release and LVef in the other.
_INFO_FIELDS = {
    "sex": "Sex",
    "age": "Age",
    "quality": "ImageQuality",
    "frame_rate": "FrameRate",
    "ed": "ED",
    "es": "ES",
    "frames": "NbFrame",
    "edv": "LVedv",
    "esv": "LVesv",
}
_OF_THE_PATIENT = ("Sex", "Age", "EF", "LVef", "LVedv", "LVesv")


@dataclass(frozen=True)
class CamusCase:
    """Files of one case."""

    id: CaseId
    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """patient0001_2CH_ED."""
        return str(self.id)


@dataclass(frozen=True)
class CamusDatabase:
    """A CAMUS tree: patient folders, and the folder of its split files if it has one."""

    patients: dict[str, Path]
    split_folder: Path | None = None
    missing: list[str] = field(default_factory=list)


def find_database(source: Path) -> CamusDatabase:
    """Locate patient folders and split files below `source`.

    Raises DataError when `source` holds no CAMUS patient.
    """
    if not source.is_dir():
        raise DataError(f"{source}: not a folder; expected CAMUS with database_nifti/ or patientXXXX/ folders")
    layout = specs.camus()
    for name in layout.database_folders:
        folders = [source / part for part in name.split("+")]
        patients = _patient_folders(folders)
        if patients:
            return CamusDatabase(patients, _split_folder(source))
    tried = ", ".join(layout.database_folders)
    raise DataError(f"{source}: no patientXXXX folders found (looked in {tried}); is this CAMUS?")


def _patient_folders(folders: Iterable[Path]) -> dict[str, Path]:
    pattern = re.compile(specs.camus().patient_pattern, re.ASCII)
    patients: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not (path.is_dir() and pattern.fullmatch(path.name)):
                continue
            if path.name in patients:
                raise DataError(f"{path}: {path.name} exists twice, also at {patients[path.name]}")
            patients[path.name] = path
    return patients


def _split_folder(source: Path) -> Path | None:
    for name in specs.camus().split_folders:
        whole = source.resolve()  # "." and links have other names, or none
        beside = [p.parent for p in (source.absolute(), whole) if p.name in specs.camus().database_folders]
        for parent in (source, *beside):
            if (parent / name).is_dir():
                return parent / name
    return None


def find_cases(
    database: CamusDatabase, allow_missing: bool = False, patients: Collection[str] | None = None
) -> list[CamusCase]:
    """Cases of `database`, image and mask paired by name, sorted by id.

    Args:
        patients: whose cases; None for all.

    Raises DataError for a missing image or mask unless `allow_missing`, in which case the
    case is left out and named in `database.missing`.
    """
    layout = specs.camus()
    cases: list[CamusCase] = []
    database.missing.clear()
    wanted = {p: folder for p, folder in database.patients.items() if patients is None or p in patients}
    for patient, folder in sorted(wanted.items()):
        for view in layout.views:
            for phase in layout.phases:
                case_id = CaseId(patient, view, phase)
                stem = layout.image_name.format(patient=patient, view=view, phase=phase)
                image = _first_existing(folder, stem)
                mask = _first_existing(folder, stem + layout.mask_suffix)
                if image and mask:
                    cases.append(CamusCase(case_id, image, mask))
                else:
                    database.missing.append(str(case_id))
                    if not allow_missing:
                        what = "image" if not image else "mask"
                        name = stem if not image else stem + layout.mask_suffix
                        raise DataError(
                            f"{folder}: {what} {name}{layout.file_endings[0]} is missing; "
                            "pass --allow-missing to leave incomplete cases out"
                        )
    return cases


def _first_existing(folder: Path, stem: str) -> Path | None:
    for ending in specs.camus().file_endings:
        if (folder / (stem + ending)).is_file():
            return folder / (stem + ending)
    return None


def read_info(folder: Path, view: str) -> dict[str, CfgValue]:
    """Clinical fields of one view, in one vocabulary for both releases.

    Keys sex, age (years), quality, ef (%), frame_rate (Hz), ed, es, frames, edv, esv (ml); a
    field that neither the view's own cfg nor, for what belongs to the patient, the other
    view's holds is left out.
    """
    layout = specs.camus()
    own = folder / layout.cfg_name.format(view=view)
    cfg = read_cfg(own) if own.is_file() else {}
    for other in (folder / layout.cfg_name.format(view=v) for v in layout.views if v != view):
        if other.is_file():
            cfg = {k: v for k, v in read_cfg(other).items() if k in _OF_THE_PATIENT} | cfg
    info = {ours: cfg[theirs] for ours, theirs in _INFO_FIELDS.items() if theirs in cfg}
    ef = cfg.get("EF", cfg.get("LVef"))
    return info | ({"ef": ef} if ef is not None else {})


def assign_splits(
    patients: Iterable[str],
    split: dict[str, list[str]],
    allow_missing: bool = False,
    source: str = "--split",
    otherwise: str = "another --split",
) -> dict[str, str]:
    """Split name of each patient that is both on disk and in the split's lists.

    Args:
        source, otherwise: where the lists come from, and what can be done about them, for errors.

    Raises DataError when a listed patient is not on disk or a patient on disk is in no list,
    unless `allow_missing`.
    """
    on_disk = set(patients)
    of_patient = {p: name for name, listed in split.items() for p in listed}
    absent = sorted(set(of_patient) - on_disk)
    unlisted = sorted(on_disk - set(of_patient))
    if absent and not allow_missing:
        raise DataError(
            f"{source} lists {len(absent)} patient(s) that are not on disk ({some_of(absent)}); "
            f"pass --allow-missing to go on without them, or {otherwise}"
        )
    if unlisted and not allow_missing:
        raise DataError(
            f"{len(unlisted)} patient(s) on disk are in no list of {source} ({some_of(unlisted)}); "
            f"pass --allow-missing to leave them out, or {otherwise}"
        )
    if not on_disk & set(of_patient):
        raise DataError(f"no patient on disk is in {source}; expected at least one in common")
    return {p: of_patient[p] for p in sorted(on_disk & set(of_patient))}


def hold_out_validation(split_of: Mapping[str, str]) -> dict[str, str]:
    """`split_of` with every tenth training patient moved to validation, where it has no validation patient.

    Trainings choose their best weights on validation patients; nnU-Net, given none, splits by image,
    and the same hearts train and validate.

    Raises DataError when fewer than two training patients are left to choose from.
    """
    if "val" in split_of.values():
        return dict(split_of)
    training = sorted(p for p, split in split_of.items() if split == "train")
    if len(training) < 2:
        raise DataError(
            f"{len(training)} training patient(s) and none for validation; expected at least two, or a --split with both"
        )
    chosen = set(training[::10])
    return {p: "val" if p in chosen else split for p, split in split_of.items()}


def choose_some(split_of: Mapping[str, str], count: int) -> dict[str, str]:
    """`count` of the patients, spread evenly over each split, in the splits' proportions with one of each at least.

    Raises DataError when there are fewer, or `count` is below two.
    """
    if not 2 <= count <= len(split_of):
        raise DataError(f"--patients {count}: expected 2 to {len(split_of)}, all that there are")
    members = {s: sorted(p for p, split in split_of.items() if split == s) for s in ("train", "val", "test")}
    quota = {s: min(1, len(listed)) for s, listed in members.items()}
    if sum(quota.values()) > count:
        quota["test"] = 0
    while sum(quota.values()) < count:
        lacking = {s: len(m) / len(split_of) * count - quota[s] for s, m in members.items() if quota[s] < len(m)}
        quota[max(lacking, key=lambda s: lacking[s])] += 1
    chosen = {m[i * len(m) // quota[s]] for s, m in members.items() for i in range(quota[s])}
    return {p: split for p, split in split_of.items() if p in chosen}


def some_of(names: Sequence[str]) -> str:
    """The first three of `names`, for a message."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
