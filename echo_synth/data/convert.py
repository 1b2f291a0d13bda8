"""CAMUS to nnU-Net's raw format and to a classification folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from echo_synth.data import nnunet_raw
from echo_synth.data.camus import CamusCase, CfgValue, read_case
from echo_synth.data.nifti import Image2D
from echo_synth.data.resize import rescale_spacing, resize_grey, resize_labels, resize_mask
from echo_synth.data.tissues import sector_mask
from echo_synth.files import new_folder, write_json
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.types import SPLITS


@dataclass(frozen=True)
class ConvertJob:
    """One case on its way: everything a worker process needs."""

    case: CamusCase
    split: str
    info: Mapping[str, CfgValue]


@dataclass(frozen=True)
class Converted:
    """A case on its final grid.

    Attributes:
        image: (H, W) uint8, or the source's dtype when native; 0 outside the sector.
        labels: (H, W) uint8, 0..3.
        sector: (H, W) bool.
        spacing: mm, (row, column).
        native: the source's shape (rows, columns) and spacing.
    """

    image: NDArray[np.generic]
    labels: NDArray[np.uint8]
    sector: NDArray[np.bool_]
    spacing: tuple[float, float]
    native_shape: tuple[int, int]
    native_spacing: tuple[float, float]


def convert_picture(image: Image2D, mask: Image2D, size: int | None) -> Converted:
    """Bring a case to `size` x `size`, or keep its grid when `size` is None.

    The sector is found at native resolution, where the scanner's zero is exact; resizing an
    image blends its edge.
    """
    sector = sector_mask(image.pixels)
    rows, columns = image.pixels.shape
    native = ((rows, columns), image.spacing)
    if size is None:
        return Converted(np.where(sector, image.pixels, 0).astype(image.pixels.dtype), mask.pixels.astype(np.uint8),
                         sector, image.spacing, *native)  # fmt: skip
    grid = (size, size)
    small_sector = resize_labels(sector, grid).astype(bool)
    pixels = resize_grey(image.pixels, grid)
    spacing = rescale_spacing(image.spacing, image.pixels.shape, grid)
    labels = resize_mask(mask.pixels, grid)
    return Converted(np.where(small_sector, pixels, 0).astype(np.uint8), labels, small_sector, spacing, *native)


def _convert_one(job: ConvertJob, size: int | None, raw: Path, classification: Path | None) -> dict[str, Any]:
    """Worker: read, convert and write one case; returns its row of cases.csv."""
    image, mask = read_case(job.case)
    done = convert_picture(image, mask, size)
    dataset, case = nnunet_raw.RawDataset(raw), str(job.case.id)
    nnunet_raw.write_image(dataset.image_path(case, job.split), done.image, done.spacing)
    nnunet_raw.write_image(dataset.label_path(case, job.split), done.labels, done.spacing)
    if classification is not None:
        path = classification / job.split / job.case.id.view / f"{case}.png"
        Image.fromarray(np.clip(np.rint(done.image), 0, 255).astype(np.uint8)).save(path)
    return _case_row(job, done)


def _case_row(job: ConvertJob, done: Converted) -> dict[str, Any]:
    pixel_mm2 = done.spacing[0] * done.spacing[1]
    case = job.case.id
    return {
        "case": str(case), "patient": case.patient, "view": case.view, "phase": case.phase, "split": job.split,
        **{key: job.info.get(key) for key in ("sex", "age", "quality", "ef", "frame_rate", "edv", "esv")},
        "rows": done.image.shape[0], "columns": done.image.shape[1],
        "spacing_row_mm": done.spacing[0], "spacing_column_mm": done.spacing[1],
        "native_rows": done.native_shape[0], "native_columns": done.native_shape[1],
        "native_spacing_row_mm": done.native_spacing[0], "native_spacing_column_mm": done.native_spacing[1],
        "sector_area_mm2": float(done.sector.sum() * pixel_mm2),
    }  # fmt: skip


def convert(
    jobs: list[ConvertJob],
    raw: Path,
    classification: Path | None,
    size: int | None,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    workers: int | None = None,
) -> pd.DataFrame:
    """Convert `jobs` into the raw dataset folder `raw` and the folder `classification`.

    Both folders appear complete or not at all.

    Returns:
        the rows of cases.csv.

    Raises:
        DataError: a damaged input file, or no space or permission to write.
        ExistsError: a folder exists and `overwrite` is off.
    """
    with ExitStack() as stack:
        new_raw = stack.enter_context(new_folder(raw, overwrite))
        new_class = stack.enter_context(new_folder(classification, overwrite)) if classification else None
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (new_raw / folder).mkdir()
        for split in SPLITS if new_class else ():
            for view in ("2CH", "4CH"):
                (new_class / split / view).mkdir(parents=True)  # type: ignore[operator]
        work = partial(_convert_one, size=size, raw=new_raw, classification=new_class)
        rows = list(track(parallel_map(work, jobs, workers), len(jobs), "convert", "cases"))
        cases = pd.DataFrame(rows)
        nnunet_raw.write_index(new_raw, cases)
        write_json(new_raw / "settings.json", dict(settings))
        if new_class:
            cases.sort_values("case").to_csv(new_class / "cases.csv", index=False)
    return cases
