"""Which folders a synthetic dataset fills: those of the id asked for, of an unfinished one, or of the next free id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo_synth import checksums
from echo_synth.claims import LOCK, claim, lock_in
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError, ExistsError, HeldError
from echo_synth.files import PARTIAL, check_writable, disk_error, read_json, write_json
from echo_synth.folders import MARKER
from echo_synth.generation.manifest import MANIFEST
from echo_synth.generation.shards import is_held, is_held_or_left
from echo_synth.generation.writer import PREVIEW
from echo_synth.home import classification, nnunet_folder

FIRST_ID = 601
_SETTINGS = "settings.json"
_WAIT_SECONDS = 120.0  # for another command that chooses an id


@dataclass(frozen=True)
class Target:
    """The two folders of a dataset: nnU-Net's raw one, and the classification copy."""

    raw: Path
    classification: Path


@dataclass(frozen=True)
class TargetRequest:
    """Which dataset is asked for.

    Attributes:
        dataset_id: None for the unfinished dataset with this identity, else the next free id from 601.
        name: of the dataset, without its id.
        identity: settings that decide the files' content.
        classification: folder of the classification copy, or None for the default below ECHOSYNTH_HOME.
    """

    dataset_id: int | None
    name: str
    identity: Mapping[str, Any]
    classification: Path | None = None


def choose_target(request: TargetRequest) -> Target:
    """The folders of the dataset; nothing is made.

    Raises:
        ExistsError: the id, or a folder, holds something else.
        DataError: not an id, or a folder cannot be written.
    """
    raw = _choose_raw(request)
    target = Target(raw, (request.classification or classification() / raw.name).absolute())
    _check_raw(raw, request.identity)
    _check_classification(target, request.identity)
    for folder in (target.raw, target.classification):
        check_writable(folder)
    return target


def make_target(request: TargetRequest, settings_of: Callable[[Target], Mapping[str, Any]]) -> Target:
    """Choose and make the folders; of two processes that choose at once, each gets an id of its own.

    Args:
        settings_of: content of settings.json for a target.

    Raises as `choose_target`.
    """
    choose_target(request)  # what is wrong is said before anything is made
    with claim(lock_in(nnunet_folder("nnUNet_raw")), wait=_WAIT_SECONDS):
        target = choose_target(request)
        try:
            for folder in (target.raw, target.classification):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise disk_error(e, target.raw) from e
        settings = _settings_of(target.raw)
        told = settings.get("identity"), settings.get("classification")
        if told != (_as_json(request.identity), str(target.classification)):
            write_json(target.raw / _SETTINGS, {**settings_of(target), "identity": dict(request.identity)})
        _mark_pictures(target, request.identity)
    return target


def _mark_pictures(target: Target, identity: Mapping[str, Any]) -> None:
    """Say of the classification folder whose pictures it holds; what is said already, or by an earlier version, stays."""
    drawn = _drawn_with(target.classification)
    if (target.classification / MARKER).is_file() and drawn in (None, _digest(identity)):
        return
    checksums.forget(target.classification)
    content = {"made_by": "generate", "dataset": target.raw.name, "settings": _digest(identity)}
    write_json(target.classification / MARKER, content)


def check_ours(target: Target, request: TargetRequest) -> None:
    """Raise HeldError where another process took the dataset, which was empty, before this one held it."""
    if _identity_of(target.raw) != _as_json(request.identity):
        raise HeldError(f"{target.raw}: another command began it with other settings; choose another --dataset-id")


def is_complete(raw: Path) -> bool:
    """Whether the dataset is whole, and the command that drew it came to its end."""
    return (raw / MANIFEST).is_file() and (raw / PREVIEW).is_file() and not is_held_or_left(raw)


def _choose_raw(request: TargetRequest) -> Path:
    root = nnunet_folder("nnUNet_raw")
    if request.dataset_id is None:
        for path in sorted(root.glob(f"Dataset*_{request.name}")):
            if not is_complete(path) and _identity_of(path) == _as_json(request.identity):
                return path
        return root / f"Dataset{nnunet_raw.next_free_id(FIRST_ID):03d}_{request.name}"
    nnunet_raw.check_id(request.dataset_id)
    path = root / f"Dataset{request.dataset_id:03d}_{request.name}"
    made = (*nnunet_raw.existing(request.dataset_id), *nnunet_raw.being_made(request.dataset_id))
    taken = [p for p in made if p != path]
    if taken:
        raise ExistsError(f"dataset id {request.dataset_id} is taken by {taken[0]}; choose another --dataset-id")
    return path


def _identity_of(raw: Path) -> dict[str, Any] | None:
    """Identity of the dataset in `raw`; None where it was not made by generate."""
    identity = _settings_of(raw).get("identity")
    return identity if isinstance(identity, dict) else None


def _settings_of(raw: Path) -> dict[str, Any]:
    """settings.json; empty where it is missing or damaged."""
    try:
        settings = read_json(raw / _SETTINGS)
    except DataError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _check_raw(raw: Path, identity: Mapping[str, Any]) -> None:
    before = _identity_of(raw)
    if before is None:
        if _holds_files(raw):
            raise ExistsError(f"{raw} exists and was not made by 'echosynth generate'; choose another --dataset-id")
        return
    now = _as_json(identity)
    # The hash of the maps is that of the plan too: another count, say, changes both.
    keys = sorted(now | before, key=lambda key: key == "maps_hash")
    changed = [key for key in keys if before.get(key) != now.get(key)]
    if changed and not _is_empty(raw):
        raise ExistsError(
            f"{raw} was made with {changed[0]} = {before.get(changed[0])!s:.200}, now {now.get(changed[0])!s:.200}; "
            "repeat the old settings to complete it, or choose another --dataset-id"
        )


def _is_empty(raw: Path) -> bool:
    """Whether a command that began the dataset ended before its first image: its settings bind nobody."""
    return not is_held(raw) and not any((raw / "imagesTr").glob(f"*{nnunet_raw.ENDING}"))


def _check_classification(target: Target, identity: Mapping[str, Any]) -> None:
    """Raise ExistsError where pictures would be mixed with other files, or with those of an earlier dataset of this name."""
    folder = target.classification
    if target.raw == folder or folder.is_relative_to(target.raw) or target.raw.is_relative_to(folder):
        raise ExistsError(f"--classification {folder}: is inside {target.raw} or around it; choose a folder beside it")
    if not _holds_files(folder):
        return
    if (folder / MARKER).is_file():
        content = read_json(folder / MARKER)
        owner = content.get("dataset") if isinstance(content, dict) else None
        ours = owner == target.raw.name
    else:  # of a version without marker, or of a command that was killed before it
        ours = _settings_of(target.raw).get("classification") == str(folder)
    if not ours:
        raise ExistsError(
            f"{folder} holds other files than the pictures of {target.raw.name}; choose another --classification"
        )
    drawn = _drawn_with(folder)
    same = drawn == _digest(identity) if drawn else _identity_of(target.raw) == _as_json(identity)
    if not same and any(folder.rglob("*.png")):
        raise ExistsError(
            f"{folder} holds pictures of an earlier {target.raw.name}, drawn with other settings; remove that folder, or choose "
            "another --classification"
        )


def _drawn_with(folder: Path) -> str | None:
    """`_digest` of what the pictures in a classification folder were drawn with; None where an earlier version did not say."""
    content = read_json(folder / MARKER) if (folder / MARKER).is_file() else None
    drawn = content.get("settings") if isinstance(content, dict) else None
    return drawn if isinstance(drawn, str) else None


def _digest(identity: Mapping[str, Any]) -> str:
    """First 16 hex digits of a SHA-256."""
    return hashlib.sha256(json.dumps(_as_json(identity), sort_keys=True).encode()).hexdigest()[:16]


def _holds_files(folder: Path) -> bool:
    """Whether there is more than what a command that was killed at its start leaves."""
    return folder.exists() and any(not p.name.startswith((PARTIAL, LOCK)) for p in folder.iterdir())


def _as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(json.dumps(dict(identity), default=str))
    return decoded
