"""nnU-Net's raw dataset format, written and read without importing nnU-Net.

Layout: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs, labelsTs, dataset.json,
splits_final.json (copied by nnU-Net's planning) and our cases.csv.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.nifti import check_whole, read_image
from echo_synth.data.resize import resize_grey
from echo_synth.errors import DataError, ExistsError
from echo_synth.files import read_json, write_json
from echo_synth.home import nnunet_folder

ENDING = ".nii.gz"
MAX_ID = 999  # nnU-Net names datasets with three digits


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

    def cases(self) -> pd.DataFrame:
        """cases.csv, one row a case. Raises DataError when it is missing."""
        file = self.path / "cases.csv"
        if not file.is_file():
            raise DataError(f"{file}: missing; was this dataset made by 'echosynth convert-camus'?")
        return pd.read_csv(file, dtype={"case": str, "patient": str, "view": str})

    def image_path(self, case: str, split: str) -> Path:
        """Where the case's image is: in this folder, or where dataset.json refers to."""
        referred = _referred(self.path).get(case)
        if referred is not None:
            return (self.path / referred["images"][0]).resolve()
        folder = "imagesTs" if split == "test" else "imagesTr"
        return self.path / folder / f"{case}_0000{ENDING}"

    def label_path(self, case: str, split: str) -> Path:
        """Where the case's mask is, see `image_path`."""
        referred = _referred(self.path).get(case)
        if referred is not None:
            return (self.path / referred["label"]).resolve()
        folder = "labelsTs" if split == "test" else "labelsTr"
        return self.path / folder / f"{case}{ENDING}"


def _referred(folder: Path) -> dict[str, Any]:
    """Files of a dataset that holds references only, by case; nothing for one with files of its own."""
    file = folder / "dataset.json"
    return _read_references(file, file.stat().st_mtime_ns) if file.is_file() else {}


@lru_cache(maxsize=16)
def _read_references(file: Path, changed: int) -> dict[str, Any]:
    found: dict[str, Any] = read_json(file).get("dataset", {})
    return found


def check_id(dataset_id: int) -> None:
    """Raise DataError unless nnU-Net can use `dataset_id`."""
    if not 1 <= dataset_id <= MAX_ID:
        raise DataError(f"--dataset-id {dataset_id}: nnU-Net uses three digits, expected 1 to {MAX_ID}")


def existing(dataset_id: int) -> list[Path]:
    """Raw dataset folders that carry `dataset_id`, finished ones only."""
    raw = nnunet_folder("nnUNet_raw")
    return sorted(p for p in raw.glob(f"Dataset{dataset_id:03d}_*") if p.is_dir())


def find(dataset_id: int) -> RawDataset:
    """The raw dataset of that id. Raises DataError when there is none, or more than one."""
    check_id(dataset_id)
    found = existing(dataset_id)
    raw = nnunet_folder("nnUNet_raw")
    if not found:
        have = ", ".join(p.name for p in sorted(raw.glob("Dataset*"))) or "none"
        raise DataError(f"no Dataset{dataset_id:03d}_* in {raw} (there: {have}); run 'echosynth convert-camus' first")
    if len(found) > 1:
        raise DataError(f"{raw}: {found[0].name} and {found[1].name} share an id; rename one")
    return RawDataset(found[0])


def target(dataset_id: int, name: str, overwrite: bool) -> Path:
    """Folder for a new dataset. Raises ExistsError when its id is taken by one that may not be replaced."""
    check_id(dataset_id)
    if not re.fullmatch(r"[A-Za-z0-9._+-]+", name):
        raise DataError(f"--name '{name}': expected letters, digits, '.', '_', '+' and '-' only")
    path = nnunet_folder("nnUNet_raw") / f"Dataset{dataset_id:03d}_{name}"
    taken = existing(dataset_id)
    if taken and not (overwrite and taken == [path]):
        hint = "pass --overwrite to replace it, or choose" if taken == [path] else "choose"
        raise ExistsError(f"dataset id {dataset_id} is taken by {taken[0]}; {hint} another --dataset-id")
    return path


def next_free_id(first: int) -> int:
    """Smallest unused id from `first` on. Raises DataError when all are taken."""
    for dataset_id in range(first, MAX_ID + 1):
        if not existing(dataset_id):
            return dataset_id
    raise DataError(f"no free dataset id from {first} to {MAX_ID}; remove old datasets")


def write_image(path: Path, pixels: NDArray[np.generic], spacing: tuple[float, float]) -> None:
    """Write a true 2-D NIfTI.

    Args:
        pixels: (rows, columns); uint8 or float32.
        spacing: mm, (row, column).
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels))
    image.SetSpacing((float(spacing[1]), float(spacing[0])))
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        check_whole(path)  # on a full disk ITK leaves half a file and says nothing
    except (RuntimeError, DataError) as e:
        path.unlink(missing_ok=True)
        # ITK hides errno: a write that failed although the folder is writable ran out of space.
        number = errno.ENOSPC if os.access(path.parent, os.W_OK) else errno.EACCES
        raise OSError(number, f"could not write the whole file ({e!s:.80})", str(path)) from None


def dataset_json(training_cases: int) -> dict[str, Any]:
    """dataset.json with nnU-Net's required keys only, in their documented form."""
    return {
        "channel_names": {"0": "ultrasound"},
        "labels": specs.labels().nnunet_labels,
        "numTraining": training_cases,
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


def write_index(folder: Path, cases: pd.DataFrame) -> None:
    """dataset.json, splits_final.json and cases.csv for `cases` (columns case, split, …).

    One fold: training against validation patients. nnU-Net's default folds would put the four
    images of a patient on both sides.
    """
    training = cases[cases["split"].isin(["train", "val"])]
    write_json(folder / "dataset.json", dataset_json(len(training)))
    train = sorted(training.loc[training["split"] == "train", "case"])
    val = sorted(training.loc[training["split"] == "val", "case"])
    if train and val:
        write_json(folder / "splits_final.json", [{"train": train, "val": val}])
    cases.sort_values("case").to_csv(folder / "cases.csv", index=False)


def training_count(dataset: RawDataset) -> int:
    """Training and validation cases that dataset.json announces. Raises DataError when it is missing or damaged."""
    return int(read_json(dataset.path / "dataset.json")["numTraining"])


def read_pixels(path: Path) -> NDArray[np.generic]:
    """Pixels (rows, columns) of a raw dataset file. Raises DataError when it is damaged."""
    return read_image(path).pixels


def read_grey(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image on a grid of `size` (rows, columns), uint8. Raises DataError when it is damaged."""
    return resize_grey(read_pixels(path), size)


def test_patients(dataset: RawDataset) -> set[str]:
    """Patients whose cases are held out in `dataset`."""
    cases = dataset.cases()
    return set(cases.loc[cases["split"] == "test", "patient"])
