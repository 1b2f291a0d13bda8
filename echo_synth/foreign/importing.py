"""Foreign images to nnU-Net's raw format and a classification folder, checked like our own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from echo_synth import __version__, checksums
from echo_synth.data import nnunet_raw
from echo_synth.data.facts import terms, write_facts
from echo_synth.data.nifti import Image2D, write_image
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.pair import check_extent, check_grey_levels
from echo_synth.data.png import read_grey_png
from echo_synth.data.tissues import OTHER_TISSUE, Case2D, derive_case
from echo_synth.errors import DataError
from echo_synth.files import write_bytes, write_json
from echo_synth.folders import mark, new_folders
from echo_synth.foreign.labels import Labels
from echo_synth.foreign.layout import Pair
from echo_synth.foreign.plan import ImportPlan, spacing_of
from echo_synth.generation.manifest import MANIFEST, write_manifest
from echo_synth.generation.run import save_preview
from echo_synth.generation.writer import PREVIEW
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.types import VIEWS

MADE_BY = "import-images"
SIZE = 256  # rows and columns that every image gets
_SHOWN = 16  # in the preview


@dataclass(frozen=True)
class Origin:
    """What the user says of the images: what drew them, with how many evaluations, and from whose data it learnt."""

    model: str
    nfe: int | None
    source: str
    labels: Labels
    background: int


@dataclass(frozen=True)
class _Job:
    row: Mapping[str, Any]
    pair: Pair


@dataclass(frozen=True)
class _Made:
    """Of one case: its spacing on the new grid, and a hash of its name and files."""

    spacing: tuple[float, float]
    digest: bytes


def read_pair(pair: Pair, spacing_of: Callable[[tuple[int, int]], tuple[float, float]], origin: Origin) -> Case2D:
    """Image, labels and sector of a pair on a grid of 256 x 256.

    Args:
        spacing_of: mm a pixel, down and across, of an image of (rows, columns).

    Raises DataError, with the file's name, for whatever `data.pair.read_case` refuses, and for an image without black
    around its sector whose mask does not tell where that is.
    """
    image, ids = read_grey_png(pair.image), origin.labels.read(pair.mask)
    if image.shape != ids.shape:
        raise DataError(
            f"{pair.mask}: is {ids.shape[0]} x {ids.shape[1]}, its image is {image.shape[0]} x {image.shape[1]}"
        )
    spacing = spacing_of((image.shape[0], image.shape[1]))
    check_extent(
        pair.image, Image2D(image, spacing), "is --spacing, or the table's, right?"
    )  # a PNG has none of its own
    check_grey_levels(pair.image, image)
    if origin.labels.knows_sector:  # what a network drew outside does not count
        image = np.where(ids > 0, np.maximum(image, 1), 0).astype(np.uint8)
    else:
        image = np.where(image > origin.background, image, 0).astype(np.uint8)
    labels = np.where(ids == OTHER_TISSUE, 0, ids).astype(np.uint8)
    case = derive_case(Image2D(image, spacing), Image2D(labels, spacing), SIZE)
    if case.sector.all():
        raise DataError(
            f"{pair.image}: no pixel is black, expected black around the ultrasound sector; pass --background with the grey "
            "level that counts as black, or masks that hold the sector"
        )
    return case


def _convert_one(job: _Job, plan: ImportPlan, origin: Origin, raw: Path, classification: Path) -> _Made:
    """Worker: read, check and write one case."""
    pair, row = job.pair, job.row
    case = read_pair(pair, lambda shape: spacing_of(row, shape, plan), origin)
    dataset, name = RawDataset(raw), str(row["case"])
    write_image(dataset.image_path(name, row["split"]), case.image, case.spacing)
    write_image(dataset.label_path(name, row["split"]), case.labels, case.spacing)
    Image.fromarray(case.image.astype(np.uint8)).save(classification / row["split"] / row["view"] / f"{name}.png")
    digest = hashlib.sha256(name.encode())
    for path in (pair.image, pair.mask):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return _Made(case.spacing, digest.digest())


def import_images(
    plan: ImportPlan,
    origin: Origin,
    raw: Path,
    classification: Path,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    workers: int | None = None,
    inputs: Sequence[Path] = (),
) -> pd.DataFrame:
    """Write the dataset of `plan`: raw folder and classification folder appear together and complete, or not at all.

    Args:
        settings: written to settings.json.
        inputs: what is read, which is never replaced.

    Returns:
        rows of cases.csv.

    Raises:
        DataError: an image or mask is refused (see `read_pair`), or no space or permission to write.
        ExistsError: a folder exists and may not be replaced.
    """
    with new_folders([classification, raw], MADE_BY, overwrite, inputs) as (new_class, new_raw):
        nnunet_raw.check_alone(raw)
        for name in ("imagesTr", "labelsTr"):
            (new_raw / name).mkdir()
        for folder in (new_class / split / view for split in ("train", "val") for view in VIEWS):
            folder.mkdir(parents=True)
        rows = [{str(k): v for k, v in row.items()} for row in plan.rows.to_dict("records")]
        jobs = [_Job(row, pair) for row, pair in zip(rows, plan.pairs, strict=True)]
        work = partial(_convert_one, plan=replace(plan, rows=plan.rows.head(0), pairs=[]), origin=origin, raw=new_raw)
        work = partial(work, classification=new_class)
        made = list(track(parallel_map(work, jobs, workers), len(jobs), "import", "images"))
        spacing = np.asarray([m.spacing for m in made])
        table = plan.rows.assign(spacing_row_mm=spacing[:, 0], spacing_column_mm=spacing[:, 1])
        digest = hashlib.sha256(b"".join(m.digest for m in made)).hexdigest()[:16]
        _write_tables(new_raw, raw.name, table, origin, digest)
        write_json(new_raw / "settings.json", dict(settings))
        write_bytes(new_class / "cases.csv", (new_raw / "cases.csv").read_bytes())
        for folder in (new_class, new_raw):
            mark(folder, MADE_BY)
            checksums.record(folder)
    return table


def _write_tables(raw: Path, name: str, table: pd.DataFrame, origin: Origin, digest: str) -> None:
    """dataset.json with its facts, splits, cases.csv, manifest, card and preview, as `generate` leaves them."""
    cases = table.drop(columns=["index"]).assign(rows=SIZE, columns=SIZE)
    nnunet_raw.write_index(raw, cases)
    recorded = {"model": origin.model, "model_hash": digest, "nfe": origin.nfe}
    write_manifest(raw / MANIFEST, table, recorded)
    facts = {
        "made_by": MADE_BY,
        "version": __version__,
        "kind": "imported",
        **{k: v for k, v in recorded.items() if v is not None and k != "model_hash"},
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "files_hash": digest,
        "labels": origin.labels.name,
        "learnt_from": {"source": origin.source},
        **terms([origin.source]),
    }
    write_facts(raw, facts, name)
    shown = [
        nnunet_raw.derive(RawDataset(raw), str(r.case), str(r.split), SIZE) for r in table.head(_SHOWN).itertuples()
    ]
    save_preview(raw / PREVIEW, [(case.image.astype(np.uint8), case.tissues) for case in shown])
