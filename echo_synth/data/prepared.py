"""Fixed-size arrays on disk: what training reads, memory-mapped, made once per dataset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel

from echo_synth.data import nnunet_raw
from echo_synth.data.subject import subject_of, write_subject
from echo_synth.data.tables import read_cases
from echo_synth.errors import DataError
from echo_synth.files import new_array, open_array, write_json
from echo_synth.folders import new_folder
from echo_synth.home import home
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.records import read_json_as

MADE_BY = "prepare"
_WAIT_SECONDS = 3600.0  # for another process that prepares the same dataset


@dataclass(frozen=True)
class Prepared:
    """Training and validation cases of one dataset; test cases are never prepared.

    Attributes:
        images: (N, 256, 256) uint8, grey levels, 0 outside the sector.
        tissues: (N, 256, 256) uint8, ids 0..4.
        frames: (N,) uint8, 0 to 3: view + 2 x phase.
        cases: rows of cases.csv in the arrays' order.
        fingerprint: changes when any pixel or the order does.
    """

    images: NDArray[np.uint8]
    tissues: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    cases: pd.DataFrame
    fingerprint: str

    def rows(self, split: str) -> NDArray[np.intp]:
        """Positions of one split's cases."""
        return np.flatnonzero(self.cases["split"].to_numpy() == split)


def _prepare_one(
    row: dict[str, str], dataset: nnunet_raw.RawDataset, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Worker: image and tissue map (size, size) uint8 of one case."""
    derived = nnunet_raw.derive(dataset, row["case"], row["split"], size)
    return derived.image.astype(np.uint8), derived.tissues


def prepare(dataset: nnunet_raw.RawDataset, size: int = 256) -> Prepared:
    """Prepared arrays of `dataset`, from the cache when its cases have not changed since.

    Raises DataError when the dataset has no training case.
    """
    cases = dataset.cases()
    cases = cases[cases["split"] != "test"].sort_values("case").reset_index(drop=True)
    if not (cases["split"] == "train").any():
        raise DataError(f"{dataset.path}: no training case in cases.csv")
    folder = home() / "prepared" / f"{dataset.name}_{size}"
    source = _source_fingerprint(dataset, cases)
    try:
        return _open(folder, source)
    except DataError:  # none, of other cases, or damaged
        _write(dataset, cases, folder, size, source)
    return _open(folder, source)


def _source_fingerprint(dataset: nnunet_raw.RawDataset, cases: pd.DataFrame) -> str:
    """Hash of the cases and of every byte of their images and labels. Raises DataError for a missing file."""
    digest = hashlib.sha256(cases.to_csv(index=False).encode() + dataset.subject.key().encode())
    for row in cases.itertuples():
        case, split = str(row.case), str(row.split)
        for path in (dataset.image_path(case, split), dataset.label_path(case, split)):
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as e:
                raise DataError(
                    f"{path}: cannot be read ({e.strerror or e}); it is in {dataset.path}/cases.csv"
                ) from None
    return digest.hexdigest()[:16]


def _write(dataset: nnunet_raw.RawDataset, cases: pd.DataFrame, folder: Path, size: int, source: str) -> None:
    with new_folder(folder, MADE_BY, overwrite=True, wait=_WAIT_SECONDS) as new:
        shape = (len(cases), size, size)
        images, tissues = (new_array(new / name, np.uint8, shape) for name in ("images.npy", "tissues.npy"))
        work = partial(_prepare_one, dataset=dataset, size=size)
        rows = cases.to_dict("records")
        digest = hashlib.sha256()
        for i, (image, tissue) in enumerate(track(parallel_map(work, rows), len(rows), "prepare", "cases")):
            images[i], tissues[i] = image, tissue
            digest.update(image.tobytes())
            digest.update(tissue.tobytes())
        for array in (images, tissues):
            array.flush()
        write_subject(new, dataset.subject)
        cases.to_csv(new / "cases.csv", index=False)
        write_json(new / "prepared.json", {"source": source, "fingerprint": digest.hexdigest()[:16], "size": size})


class _Note(BaseModel):
    """prepared.json."""

    source: str
    fingerprint: str
    size: int


def _open(folder: Path, source: str) -> Prepared:
    """What was prepared of `source`. Raises DataError where nothing was, of something else, or it is damaged."""
    note = read_json_as(_Note, folder / "prepared.json", "echosynth train")
    if note.source != source:
        raise DataError(f"{folder}: prepared from other images or labels")
    cases = read_cases(folder / "cases.csv")
    shape = (len(cases), note.size, note.size)
    images, tissues = (open_array(folder / name, np.uint8, shape) for name in ("images.npy", "tissues.npy"))
    subject = subject_of(folder)
    frames = np.asarray([subject.frame(v, p) for v, p in zip(cases["view"], cases["phase"], strict=True)], np.uint8)
    return Prepared(images, tissues, frames, cases, note.fingerprint)
