"""CAMUS on disk to cases: both releases, every problem named before any work starts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.nifti import Image2D, read_image
from echo_synth.errors import DataError
from echo_synth.types import CaseId

CfgValue = int | float | str


@dataclass(frozen=True)
class CamusCase:
    """Files of one case."""

    id: CaseId
    image: Path
    mask: Path


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
    pattern = re.compile(specs.camus().patient_pattern)
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not (path.is_dir() and pattern.match(path.name)):
                continue
            if path.name in found:
                raise DataError(f"{path}: {path.name} exists twice, also at {found[path.name]}")
            found[path.name] = path
    return found


def _split_folder(source: Path) -> Path | None:
    for name in specs.camus().split_folders:
        beside = [source.parent] if source.name in specs.camus().database_folders else []
        for parent in (source, *beside):
            if (parent / name).is_dir():
                return parent / name
    return None


def find_cases(database: CamusDatabase, allow_missing: bool = False) -> list[CamusCase]:
    """All cases of `database`, image and mask paired by name, sorted by id.

    Raises DataError for a missing image or mask unless `allow_missing`, in which case the
    case is left out and named in `database.missing`.
    """
    layout = specs.camus()
    cases: list[CamusCase] = []
    for patient, folder in sorted(database.patients.items()):
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


def read_case(case: CamusCase) -> tuple[Image2D, Image2D]:
    """Image and mask of a case, checked against each other.

    Returns:
        image with finite pixels in [0, 255], mask uint8 with labels 0..3.

    Raises:
        DataError: sizes or spacings differ, a label is unknown, the mask is empty, or pixels
            are outside [0, 255].
    """
    image, mask = read_image(case.image), read_image(case.mask)
    if image.pixels.shape != mask.pixels.shape:
        raise DataError(f"{case.mask}: is {mask.pixels.shape}, its image {case.image.name} is {image.pixels.shape}")
    if not np.allclose(image.spacing, mask.spacing, rtol=1e-3):
        raise DataError(f"{case.mask}: spacing {mask.spacing} mm, its image has {image.spacing} mm")
    known = specs.labels().nnunet_labels
    found = np.unique(mask.pixels)
    unknown = sorted(set(found.tolist()) - set(known.values()))
    if unknown:
        raise DataError(f"{case.mask}: label {unknown[0]:g} found, expected {sorted(known.values())}")
    if not found.any():
        raise DataError(f"{case.mask}: the mask is empty (only background)")
    _check_grey_levels(case.image, image.pixels)
    return image, Image2D(mask.pixels.astype(np.uint8), mask.spacing)


def _check_grey_levels(path: Path, pixels: NDArray[np.generic]) -> None:
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
        raise DataError(f"{path}: grey levels from {low:g} to {high:g}, expected 0 to 255")
    if high == 0:
        raise DataError(f"{path}: the image is empty (all zero)")


def read_cfg(path: Path) -> dict[str, CfgValue]:
    """Fields of an Info_*.cfg, typed as data_specs/camus.yaml declares them.

    Raises DataError for an unreadable line, an unknown field or a value out of its declared set.
    """
    fields = specs.camus().cfg_fields
    result: dict[str, CfgValue] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        key, separator, text = (part.strip() for part in line.partition(":"))
        if not separator or key not in fields:
            raise DataError(f"{path}: unknown line '{line.strip():.60}', expected one of {', '.join(fields)}")
        result[key] = _cfg_value(path, key, text)
    return result


def _cfg_value(path: Path, key: str, text: str) -> CfgValue:
    spec = specs.camus().cfg_fields[key]
    try:
        value: CfgValue = {"int": int, "float": float, "str": str}[spec.type](text)
    except ValueError:
        raise DataError(f"{path}: {key} is '{text}', expected {spec.type}") from None
    if spec.values and value not in spec.values:
        raise DataError(f"{path}: {key} is '{text}', expected one of {', '.join(spec.values)}")
    return value


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
            shared = {k: v for k, v in read_cfg(other).items() if k in ("Sex", "Age", "EF", "LVef", "LVedv", "LVesv")}
            cfg = shared | cfg
    names = {
        "sex": "Sex", "age": "Age", "quality": "ImageQuality", "frame_rate": "FrameRate",
        "ed": "ED", "es": "ES", "frames": "NbFrame", "edv": "LVedv", "esv": "LVesv",
    }  # fmt: skip
    info = {ours: cfg[theirs] for ours, theirs in names.items() if theirs in cfg}
    ef = cfg.get("EF", cfg.get("LVef"))
    return info | ({"ef": ef} if ef is not None else {})


def assign_splits(
    patients: Iterable[str], split: dict[str, list[str]], allow_missing: bool = False, source: str = "--split"
) -> dict[str, str]:
    """Split name of each patient that is both on disk and in the split's lists.

    Raises DataError when a listed patient is not on disk or a patient on disk is in no list,
    unless `allow_missing`.
    """
    on_disk = set(patients)
    of_patient = {p: name for name, listed in split.items() for p in listed}
    absent = sorted(set(of_patient) - on_disk)
    unlisted = sorted(on_disk - set(of_patient))
    if absent and not allow_missing:
        raise DataError(
            f"{source} lists {len(absent)} patient(s) that are not on disk ({_some(absent)}); "
            "pass --allow-missing to go on without them, or another --split"
        )
    if unlisted and not allow_missing:
        raise DataError(
            f"{len(unlisted)} patient(s) on disk are in no list of {source} ({_some(unlisted)}); "
            "pass --allow-missing to leave them out, or another --split"
        )
    if not on_disk & set(of_patient):
        raise DataError(f"no patient on disk is in {source}; expected at least one in common")
    return {p: of_patient[p] for p in sorted(on_disk & set(of_patient))}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
