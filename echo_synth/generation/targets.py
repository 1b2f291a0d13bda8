"""Which dataset folder `generate` fills: the one with the id asked for, an unfinished one, or the next free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_synth.data import nnunet_raw
from echo_synth.errors import ExistsError
from echo_synth.files import read_json
from echo_synth.generation.manifest import MANIFEST
from echo_synth.home import classification, nnunet_folder

FIRST_ID = 601


def choose_target(dataset_id: int | None, name: str, identity: Mapping[str, Any]) -> Path:
    """Folder of the dataset: the one with that id if it is the same dataset, or a new one; nothing is made.

    Args:
        dataset_id: None for the unfinished dataset with these settings, else the next free id from 601.
        name: of the dataset, without its id.
        identity: settings that decide the files' content.

    Raises ExistsError when the id is taken by another dataset, DataError when it is not an id.
    """
    raw = nnunet_folder("nnUNet_raw")
    if dataset_id is None:
        unfinished = _unfinished(raw, name, identity)
        return unfinished or raw / f"Dataset{nnunet_raw.next_free_id(FIRST_ID):03d}_{name}"
    nnunet_raw.check_id(dataset_id)
    path = raw / f"Dataset{dataset_id:03d}_{name}"
    taken = [p for p in nnunet_raw.existing(dataset_id) if p != path]
    if taken:
        raise ExistsError(f"dataset id {dataset_id} is taken by {taken[0]}; choose another --dataset-id")
    return path


def _unfinished(raw: Path, name: str, identity: Mapping[str, Any]) -> Path | None:
    for path in sorted(raw.glob(f"Dataset*_{name}")):
        settings = path / "settings.json"
        if settings.is_file() and not (path / MANIFEST).is_file() and read_json(settings).get("identity") == identity:
            return path
    return None


def classification_folder(target: Path) -> Path:
    """Default folder of the classification copy of a dataset."""
    return classification() / target.name
