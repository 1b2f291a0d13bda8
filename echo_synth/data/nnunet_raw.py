"""nnU-Net's raw dataset format, written and read without importing nnU-Net.

Layout: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs, labelsTs, dataset.json,
splits_final.json (copied by nnU-Net's planning) and our cases.csv.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeInt

from echo_synth.claims import LOCK, holder_of
from echo_synth.data.folds import patient_folds
from echo_synth.data.nifti import Image2D, read_image
from echo_synth.data.resize import resize_grey
from echo_synth.data.subject import Subject, heart, subject_of, write_subject
from echo_synth.data.tables import read_cases
from echo_synth.data.tissues import Case2D, derive_case
from echo_synth.errors import DataError, ExistsError
from echo_synth.files import LISTS_CASES, listed, read_json, write_json
from echo_synth.folders import check_target
from echo_synth.home import nnunet_folder
from echo_synth.records import read_json_as

ENDING = ".nii.gz"
MAX_ID = 999  # nnU-Net names datasets with three digits
_MOST_LABELS = 1000


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset folder: DatasetNNN_Name."""

    path: Path

    @property
    def id(self) -> int:
        return int(self.path.name[7:10])

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def subject(self) -> Subject:
        """What its images show; raises DataError if subject.json is damaged."""
        return subject_of(self.path)

    def cases(self) -> pd.DataFrame:
        """cases.csv, one row per case, columns of `tables.CASES`; raises DataError as `tables.read_cases`."""
        return read_cases(self.path / "cases.csv")

    def image_path(self, case: str, split: str) -> Path:
        """Path of the case's image: in this folder, or the one that dataset.json names."""
        referred = _referred(self.path).get(case)
        if referred is not None:
            return self._inside(referred.image)
        folder = "imagesTs" if split == "test" else "imagesTr"
        return self.path / folder / f"{case}_0000{ENDING}"

    def label_path(self, case: str, split: str) -> Path:
        """Path of the case's mask, see `image_path`."""
        referred = _referred(self.path).get(case)
        if referred is not None:
            return self._inside(referred.label)
        folder = "labelsTs" if split == "test" else "labelsTr"
        return self.path / folder / f"{case}{ENDING}"

    def _inside(self, reference: str) -> Path:
        """A reference of dataset.json; raises DataError when it leads out of the folder of raw datasets."""
        written, real = Path(os.path.normpath(self.path.absolute() / reference)), (self.path / reference).resolve()
        parent = self.path.absolute().parent
        if not (written.is_relative_to(parent) or real.is_relative_to(parent.resolve())):
            raise DataError(f"{self.path / 'dataset.json'}: refers to {reference:.80}, outside {parent}")
        return real


@dataclass(frozen=True)
class _Reference:
    """Files of a case in another dataset, relative to the folder of dataset.json."""

    image: str
    label: str


def _referred(folder: Path) -> Mapping[str, _Reference]:
    """Files of a dataset that holds references only, by case; nothing for one with files of its own."""
    file = folder / "dataset.json"
    return _read_references(file, file.stat().st_mtime_ns) if file.is_file() else {}


@lru_cache(maxsize=16)
def _read_references(file: Path, changed: int) -> Mapping[str, _Reference]:
    references = _read_dataset_json(file).get("dataset", {})
    try:
        return {case: _Reference(str(r["images"][0]), str(r["label"])) for case, r in references.items()}
    except (AttributeError, TypeError, KeyError, IndexError):
        raise DataError(f'{file}: "dataset" is not of the form {{CASE: {{"images": [FILE], "label": FILE}}}}') from None


def _few(values: object) -> object:
    """`values` unless there are more than of channels or labels; each wrong one would be listed."""
    if isinstance(values, (dict, list)) and len(values) > _MOST_LABELS:
        raise ValueError(f"{len(values)} entries, expected at most {_MOST_LABELS}")
    return values


_Labels = NonNegativeInt | Annotated[list[NonNegativeInt], BeforeValidator(_few)]


class _Description(BaseModel):
    """dataset.json as nnU-Net needs it; more may be in it."""

    model_config = ConfigDict(extra="allow")
    channel_names: Annotated[dict[str, str], BeforeValidator(_few)]
    labels: Annotated[dict[str, _Labels], BeforeValidator(_few)]
    numTraining: NonNegativeInt  # noqa: N815
    file_ending: str


def _read_dataset_json(file: Path) -> dict[str, Any]:
    read_json_as(_Description, file, "echosynth convert-camus", LISTS_CASES)
    content: dict[str, Any] = read_json(file, LISTS_CASES)  # as it is: its hash tells whether a training fits
    return content


def describe(dataset: RawDataset) -> dict[str, Any]:
    """dataset.json. Raises DataError when it is missing, or is none that nnU-Net could use."""
    return _read_dataset_json(dataset.path / "dataset.json")


def derive(dataset: RawDataset, case: str, split: str, size: int | None) -> Case2D:
    """Image, labels and sector of one case on a grid of `size` x `size`, see `tissues.derive_case`.

    Raises DataError when a file is missing or damaged, or image and labels differ in shape.
    """
    image, labels = read_image(dataset.image_path(case, split)), read_image(dataset.label_path(case, split))
    if image.pixels.shape != labels.pixels.shape:
        shapes = f"image {image.pixels.shape} and labels {labels.pixels.shape} differ"
        raise DataError(f"{case} of {dataset.name}: {shapes}")
    return derive_case(image, Image2D(labels.pixels.astype(np.uint8), labels.spacing), size)


def check_id(dataset_id: int, option: str = "--dataset-id") -> None:
    """Raise DataError, which names the `option` that it came with, unless nnU-Net can use `dataset_id`."""
    if not 1 <= dataset_id <= MAX_ID:
        raise DataError(f"{option} {dataset_id}: nnU-Net uses three digits, expected 1 to {MAX_ID}")


def existing(dataset_id: int) -> list[Path]:
    """Raw dataset folders that carry `dataset_id`, finished ones only."""
    raw = nnunet_folder("nnUNet_raw")
    return [p for p in listed(raw, f"Dataset{dataset_id:03d}_*") if p.is_dir()]


def being_made(dataset_id: int) -> list[Path]:
    """Raw dataset folders of `dataset_id` that a living process is about to make, or to replace."""
    raw, start = nnunet_folder("nnUNet_raw"), f"{LOCK}-"
    locks = sorted(raw.glob(f"{start}Dataset{dataset_id:03d}_*"))
    return [raw / lock.name.removeprefix(start) for lock in locks if holder_of(lock)]


def check_alone(path: Path) -> None:
    """Raise ExistsError where another dataset than `path` has its id, or is about to: of two commands that began at once.

    To be called while `path` is claimed, see `folders.new_folders`.
    """
    number = re.match(r"Dataset(\d{3})_", path.name)
    if number is None or path.parent.resolve() != nnunet_folder("nnUNet_raw").resolve():
        return
    dataset_id = int(number[1])
    others = [p for p in (*existing(dataset_id), *being_made(dataset_id)) if p.name != path.name]
    if others:
        raise ExistsError(f"dataset id {dataset_id} is taken by {others[0]}; choose another --dataset-id")


def find(dataset_id: int, option: str = "--dataset-id") -> RawDataset:
    """The raw dataset with that id. Raises DataError, which names `option`, when there is none or more than one."""
    check_id(dataset_id, option)
    folders = existing(dataset_id)
    raw = nnunet_folder("nnUNet_raw")
    if not folders:
        have = ", ".join(p.name for p in sorted(raw.glob("Dataset*"))) or "none"
        raise DataError(
            f"no Dataset{dataset_id:03d}_* in {raw} (there: {have}); run 'echosynth convert-camus' first, or 'convert', "
            f"or 'echosynth generate' for a synthetic one, or give {option} an id of 'echosynth list datasets'"
        )
    if len(folders) > 1:
        raise DataError(f"{raw}: {folders[0].name} and {folders[1].name} share an id; rename one")
    return RawDataset(folders[0])


def find_by_name(name: str, option: str = "--dataset-id") -> RawDataset:
    """The raw dataset with that name, e.g. Dataset501_CAMUS. Raises DataError, which names `option`, when it is not there."""
    raw = nnunet_folder("nnUNet_raw")
    if not (raw / name / "cases.csv").is_file() or Path(name).name != name:
        raise DataError(f"no {name} in {raw}; expected the dataset of that name, or {option} with another")
    return RawDataset(raw / name)


def target(
    dataset_id: int,
    name: str,
    overwrite: bool,
    made_by: str,
    inputs: Sequence[Path] = (),
    option: str = "--dataset-id",
    choice: str = "another --dataset-id or --name",
) -> Path:
    """Folder for a new dataset.

    Args:
        option: of the command, with which the id was given.
        choice: what the user can choose instead.
        made_by: the command that makes it, see `folders.check_target`.
        inputs: what that command reads.

    Raises:
        DataError: an id or name that nnU-Net cannot use, or no right to write.
        ExistsError: the id is taken by a dataset that may not be replaced.
    """
    check_id(dataset_id, option)
    if not re.fullmatch(r"[A-Za-z0-9._+-]{1,100}", name):
        raise DataError(f"--name '{name:.100}': expected up to 100 letters, digits, '.', '_', '+' and '-'")
    path = nnunet_folder("nnUNet_raw") / f"Dataset{dataset_id:03d}_{name}"
    taken = existing(dataset_id) or [p for p in being_made(dataset_id) if p != path]
    if taken and not (overwrite and taken == [path]):
        hint = ", or pass --overwrite to replace that dataset" if taken == [path] else ""
        raise ExistsError(f"dataset id {dataset_id} is taken by {taken[0]}; choose another {option}{hint}")
    check_target(path, made_by, overwrite, inputs, choice)
    return path


def next_free_id(first: int) -> int:
    """Smallest unused id from `first` on. Raises DataError when all are taken."""
    for dataset_id in range(first, MAX_ID + 1):
        if not existing(dataset_id) and not being_made(dataset_id):
            return dataset_id
    raise DataError(f"no free dataset id from {first} to {MAX_ID}; remove old datasets")


def dataset_json(training_cases: int, subject: Subject | None = None) -> dict[str, Any]:
    """dataset.json with nnU-Net's required keys only, in their documented form; labels of `subject`, by default CAMUS's."""
    return {
        "channel_names": {"0": "rescale_to_0_1"},  # nnU-Net's name for a normalisation that keeps black at 0
        "labels": (subject or heart()).nnunet_labels,
        "numTraining": training_cases,
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


def write_index(folder: Path, cases: pd.DataFrame, subject: Subject | None = None) -> None:
    """dataset.json, splits_final.json, cases.csv and, unless `subject` is CAMUS's heart, subject.json for `cases` (columns case, split, …).

    Folds are by patient, see `folds.patient_folds`; nnU-Net's own would put the four images of a
    patient on both sides.
    """
    training = cases[cases["split"].isin(["train", "val"])]
    write_subject(folder, subject or heart())
    write_json(folder / "dataset.json", dataset_json(len(training), subject))
    folds = patient_folds(training)
    if folds:
        write_json(folder / "splits_final.json", folds)
    cases.sort_values("case").to_csv(folder / "cases.csv", index=False)


def training_count(dataset: RawDataset) -> int:
    """Training and validation cases that dataset.json announces. Raises DataError when it is missing or damaged."""
    return int(describe(dataset)["numTraining"])


def read_grey(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image on a grid of `size` (rows, columns), uint8. Raises DataError when it is damaged."""
    return resize_grey(read_image(path).pixels, size)


def test_patients(dataset: RawDataset) -> set[str]:
    """Patients whose cases are held out in `dataset`."""
    cases = dataset.cases()
    return set(cases.loc[cases["split"] == "test", "patient"])
