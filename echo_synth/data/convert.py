"""CAMUS, or what a spec describes, to nnU-Net's raw format and to a classification folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from echo_synth import __version__, checksums, specs
from echo_synth.data import camus, nnunet_raw, splits
from echo_synth.data.between_cases import Seen, notes_of
from echo_synth.data.camus import CamusCase
from echo_synth.data.card import KEY
from echo_synth.data.cfg import CfgValue
from echo_synth.data.facts import terms
from echo_synth.data.nifti import Image2D, write_image
from echo_synth.data.pair import read_case
from echo_synth.data.sources import CAMUS, SIMULATED
from echo_synth.data.spec_cases import SpecCase
from echo_synth.data.subject import Subject, heart, write_subject
from echo_synth.data.tissues import Case2D, derive_case
from echo_synth.errors import DataError
from echo_synth.files import write_json
from echo_synth.folders import maker, mark, new_folders
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.types import SPLITS

MADE_BY = "convert-camus"
PHANTOM = "phantom"  # the command; its module would load the renderer
_FROM_CFG = ("sex", "age", "quality", "ef", "frame_rate", "edv", "esv")


@dataclass(frozen=True)
class ConvertJob:
    """One case on its way: everything a worker process needs.

    Attributes:
        info: clinical fields, see `camus.read_info`; None for a dataset that has none.
    """

    case: CamusCase | SpecCase
    split: str
    info: Mapping[str, CfgValue] | None


@dataclass(frozen=True)
class Origin:
    """Whose cases are converted, and how.

    Attributes:
        made_by: the command that does.
        read: image and mask of one case, checked; runs in worker processes.
        subject: what is seen in the images.
        terms: source and licence, for settings.json; None: CAMUS's, or those of simulated patients.
        turns: whether `read` turns images as their headers say.
    """

    made_by: str
    read: Callable[[Any], tuple[Image2D, Image2D]]
    subject: Subject
    terms: Mapping[str, str] | None = None
    turns: bool = False


def of_camus() -> Origin:
    """CAMUS, in either of its releases."""
    return Origin(MADE_BY, read_case, heart(), turns=True)


@dataclass(frozen=True)
class ConversionPlan:
    """What `convert` will do.

    Attributes:
        split_of: split name of each patient.
        split_source: where the split came from, in words.
        missing: incomplete cases that are left out.
        notes: what the user should be told.
    """

    jobs: list[ConvertJob]
    split_of: dict[str, str]
    split_source: str
    missing: list[str]
    notes: list[str]


def plan(src: Path, split: str | None, allow_missing: bool, patients: int | None = None) -> ConversionPlan:
    """Cases of the CAMUS tree `src` with their splits and clinical fields; reads no image.

    Args:
        split: "official", or a folder with CAMUS's subgroup files; None for `src`'s own, else official.
        allow_missing: leave out incomplete cases, and patients that only one side knows.
        patients: how many to convert; None for all.

    Raises:
        DataError: no CAMUS, an incomplete case, a damaged cfg file, fewer patients than asked for.
        SpecError: a damaged split list.
    """
    database = camus.find_database(src)
    folder = database.split_folder if split is None else Path(split) if split != "official" else None
    lists = splits.read_split(folder) if folder else splits.official_split()
    source = str(folder or "the official split")
    listed = camus.assign_splits(database.patients, lists, allow_missing, source)
    if allow_missing:  # who has no case at all must not be the one that is chosen for validation
        known = {c.id.patient for c in camus.find_cases(database, allow_missing)}
        listed = {patient: part for patient, part in listed.items() if patient in known}
        if not listed:
            raise DataError(f"{src}: no patient of {source} has an image with its mask")
    split_of = camus.hold_out_validation(camus.choose_some(listed, patients) if patients else listed)
    cases = camus.find_cases(database, allow_missing, split_of)
    jobs = [
        ConvertJob(c, split_of[c.id.patient], camus.read_info(database.patients[c.id.patient], c.id.view))
        for c in cases
    ]
    notes = []
    if database.missing:
        notes.append(f"left out {len(database.missing)} incomplete case(s), listed in settings.json")
    if "val" not in listed.values():
        notes.append(f"{source} has no validation patients: every tenth training patient became one")
    return ConversionPlan(jobs, split_of, source, database.missing, notes)


@dataclass(frozen=True)
class _Made:
    """A converted case: its row of cases.csv, a SHA-256 of what was read, and what is compared with other cases."""

    row: dict[str, Any]
    digest: bytes
    seen: Seen


def _convert_one(job: ConvertJob, size: int | None, raw: Path, classification: Path | None, origin: Origin) -> _Made:
    """Worker: read, convert and write one case."""
    image, mask = origin.read(job.case)
    derived = derive_case(image, mask, size)
    dataset, name = nnunet_raw.RawDataset(raw), job.case.name
    write_image(dataset.image_path(name, job.split), derived.image, derived.spacing)
    write_image(dataset.label_path(name, job.split), derived.labels, derived.spacing)
    if classification is not None:
        path = classification / job.split / job.case.id.view / f"{name}.png"
        Image.fromarray(np.clip(np.rint(derived.image), 0, 255).astype(np.uint8)).save(path)  # type: ignore[call-overload]
    seen = Seen.of(name, job.case.id.patient, job.case.id.view, job.case.id.phase, job.split, image, mask)
    return _Made(_case_row(job, image, derived), _digest(name, image, mask), seen)


def _digest(name: str, image: Image2D, mask: Image2D) -> bytes:
    """Of a case as its files hold it, whatever their format: name, spacing, pixels."""
    digest = hashlib.sha256(f"{name} {image.spacing} {image.pixels.shape}".encode())
    for pixels in (image.pixels, mask.pixels):
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.digest()


def _case_row(job: ConvertJob, source: Image2D, derived: Case2D) -> dict[str, Any]:
    """A row of cases.csv, see `tables.CASES`."""
    case = job.case.id
    identity = {
        "case": job.case.name,
        "patient": case.patient,
        "view": case.view,
        "phase": case.phase,
        "split": job.split,
    }
    (rows, columns), (native_rows, native_columns) = derived.image.shape, source.pixels.shape
    pixel_mm2 = derived.spacing[0] * derived.spacing[1]
    return {
        **identity,
        **({} if job.info is None else {key: job.info.get(key) for key in _FROM_CFG}),
        "rows": rows,
        "columns": columns,
        "spacing_row_mm": derived.spacing[0],
        "spacing_column_mm": derived.spacing[1],
        "native_rows": native_rows,
        "native_columns": native_columns,
        "native_spacing_row_mm": source.spacing[0],
        "native_spacing_column_mm": source.spacing[1],
        "sector_area_mm2": float(derived.sector.sum() * pixel_mm2),
    }


def convert(
    jobs: list[ConvertJob],
    raw: Path,
    classification: Path | None,
    size: int | None,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    workers: int | None = None,
    inputs: Sequence[Path] = (),
    origin: Origin | None = None,
    tell: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Convert `jobs` into the raw dataset folder `raw` and the folder `classification`.

    Both folders appear together and complete, or not at all.

    Args:
        size: rows and columns of the grid; None keeps each image's own.
        settings: written to settings.json.
        inputs: folders that the jobs are read from, which are never replaced.
        origin: whose cases they are; CAMUS's by default.
        tell: is told what is odd about them together, see `between_cases.notes_of`.

    Returns:
        the rows of cases.csv, see `tables.CASES`.

    Raises:
        DataError: a damaged input file, a test patient's image that is another's too, or no space or permission to
            write.
        ExistsError: a folder exists and may not be replaced.
    """
    targets = ([classification] if classification else []) + [raw]
    origin = origin or of_camus()
    with new_folders(targets, origin.made_by, overwrite, inputs) as folders:
        nnunet_raw.check_alone(raw)
        new_raw, new_class = folders[-1], folders[0] if classification else None
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (new_raw / name).mkdir()
        if new_class:
            for folder in (new_class / split / view for split in SPLITS for view in origin.subject.views):
                folder.mkdir(parents=True)
        work = partial(_convert_one, size=size, raw=new_raw, classification=new_class, origin=origin)
        made = list(track(parallel_map(work, jobs, workers), len(jobs), "convert", "cases"))
        odd = notes_of([m.seen for m in made], origin.subject.is_heart, origin.turns)
        cases = pd.DataFrame([m.row for m in made])
        nnunet_raw.write_index(new_raw, cases, origin.subject)
        facts = _facts(cases, [m.digest for m in made], inputs, origin)
        write_json(new_raw / "settings.json", {**settings, KEY: facts})
        if new_class:
            cases.sort_values("case").to_csv(new_class / "cases.csv", index=False)
        for folder in folders:
            write_subject(folder, origin.subject)
            mark(folder, origin.made_by)
            checksums.record(folder)
    if tell is not None:
        for note in odd:
            tell(note)
    return cases


def _is_phantom(source: Path) -> bool:
    """Whether `echosynth phantom` made `source`, or the folder whose database it is. Other folders put there are not its own."""
    around, name = source.resolve().parent, source.resolve().name
    databases = {part for names in specs.camus().database_folders for part in names.split("+")}
    return maker(source) == PHANTOM or (maker(around) == PHANTOM and name in databases)


def _facts(cases: pd.DataFrame, digests: Sequence[bytes], inputs: Sequence[Path], origin: Origin) -> dict[str, Any]:
    """What settings.json says of where the cases come from, and a hash of all that was read."""
    simulated = any(_is_phantom(p) for p in inputs)
    return {
        "made_by": origin.made_by,
        "version": __version__,
        "kind": "converted",
        "images": len(cases),
        "patients": int(cases["patient"].nunique()),
        "source_hash": hashlib.sha256(b"".join(digests)).hexdigest()[:16],
        **(terms([SIMULATED if simulated else CAMUS]) if origin.terms is None else origin.terms),
    }
