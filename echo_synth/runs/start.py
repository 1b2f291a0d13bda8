"""How a run starts: which folder it may use, who holds it, and what lies in it from the first moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo_synth import checksums, home
from echo_synth.claims import LOCK, claim, holder_of, lock_in
from echo_synth.errors import DataError, ExistsError, HeldError, RunError
from echo_synth.files import PARTIAL, check_writable, disk_error, write_json
from echo_synth.folders import MARKER, maker, mark
from echo_synth.runs.data import DATA, TrainingData, write_training_data
from echo_synth.runs.description import Description
from echo_synth.runs.folder import (
    AS_TRAINED,
    AVERAGES,
    DESCRIPTION,
    FINISH,
    FORMER,
    READER,
    STATE,
    STUDY_FILES,
    TEXTURE,
    WEIGHTS,
    read_description,
)
from echo_synth.runs.progress import TRAIN_AGAIN, Progress, progress_of, read_state_header
from echo_synth.specs import Conditions, TrainingSpec

_SETTINGS = "settings.json"
# In this order: weights without state would pass for a finished run.
_TRAINED = (WEIGHTS, STATE, AS_TRAINED, TEXTURE, *STUDY_FILES)
# Of settings that runs of earlier versions do not name: they trained so.
_DEFAULTS = {name: f.default for name, f in TrainingSpec.model_fields.items() if not f.is_required()}
# Of settings that an identity names only where they are not the paper's.
_UNNAMED = {**Conditions().model_dump(), "latent_channels": 1}


@dataclass(frozen=True)
class RunRequest:
    """Which folder a training asks for.

    Attributes:
        made_by: the command, e.g. "train"; only its own folders are replaced.
        stem: of default names, STEM_01, STEM_02, … below ECHOSYNTH_HOME/runs.
        out: the folder, or None for a default one.
        resume: go on with the run there; without `out`, with the newest unfinished one.
        overwrite: replace the run there.
    """

    made_by: str
    stem: str
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False


def choose_run_folder(request: RunRequest) -> Path:
    """Folder of the run; nothing is made. See `hold_run_folder` for what is raised."""
    if request.out is not None:
        folder = request.out.absolute()
    elif request.resume:
        folder = _newest_to_resume(request.stem)
    else:
        folder = next(iter(_new_folders(request.stem)))
    check_run_folder(folder, request)
    return folder


@contextmanager
def hold_run_folder(request: RunRequest) -> Iterator[Path]:
    """The folder of a training, made and held until the block ends; what killed processes left in it is removed.

    Raises:
        RunError: nothing to resume.
        ExistsError: there is a run and neither resume nor overwrite is asked for, or something that is no run.
        HeldError: another process trains there.
        DataError: the folder cannot be written.
    """
    if request.out is None and not request.resume:
        with _hold_new(request.stem) as folder:
            yield folder
        return
    folder = choose_run_folder(request)
    with claim(lock_in(folder)):
        check_run_folder(folder, request)  # another process may have ended just now
        _remove_leftovers(folder)
        yield folder


@contextmanager
def _hold_new(stem: str) -> Iterator[Path]:
    """The first new folder that no other process gets before this one."""
    for folder in _new_folders(stem):
        try:
            folder.mkdir(parents=True, exist_ok=_holds_nothing(folder))
        except FileExistsError:
            continue
        except OSError as e:
            raise disk_error(e, folder) from e
        with ExitStack() as held:
            held.callback(_remove_empty, folder)
            try:
                held.enter_context(claim(lock_in(folder)))
            except HeldError:
                continue
            if not _holds_nothing(folder):
                continue
            _remove_leftovers(folder)
            yield folder
        return


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # only where nothing came into it
        folder.rmdir()


def _new_folders(stem: str) -> Iterator[Path]:
    """STEM_NN in which nothing was saved, then numbers after the last."""
    taken = _numbered(stem)
    yield from (f for f in taken.values() if _holds_nothing(f) and holder_of(lock_in(f)) is None)
    number = max(taken, default=0)
    while True:
        number += 1
        yield home.runs() / f"{stem}_{number:02d}"


def _numbered(stem: str) -> dict[int, Path]:
    ends = {f: f.name.rsplit("_", 1)[1] for f in sorted(home.runs().glob(f"{stem}_*"))}
    return {int(end): f for f, end in ends.items() if end.isdecimal()}


def _holds_nothing(folder: Path) -> bool:
    """Whether a training that started in `folder` has saved nothing yet, or none has."""
    own = {DESCRIPTION, _SETTINGS, DATA, MARKER, READER, "tensorboard", "history.csv"}
    return (
        all(f.name in own or f.name.startswith((LOCK, PARTIAL)) for f in folder.iterdir()) if folder.is_dir() else True
    )


def _is_ours(folder: Path, made_by: str) -> bool:
    """Whether `folder` is empty, holds a run, or what the command `made_by` left before it saved one.

    A model.json, a history.csv or a folder samples, which a training replaces, may be another program's.
    """
    if _is_empty(folder):
        return True
    if maker(folder) == made_by:
        return _holds_nothing(folder) or (folder / DESCRIPTION).is_file()
    try:
        read_description(folder)
    except (RunError, DataError):
        return False
    return True


def _is_empty(folder: Path) -> bool:
    return not folder.is_dir() or all(f.name.startswith((LOCK, PARTIAL)) for f in folder.iterdir())


def unfinished_runs(stem: str) -> dict[Path, Progress]:
    """Runs of that stem that did not come to their end and are not being trained now, oldest first."""
    return {f: p for f, p in _with_state(stem).items() if not p.finished and holder_of(lock_in(f)) is None}


def _with_state(stem: str) -> dict[Path, Progress]:
    states = sorted(home.runs().glob(f"{stem}_*/{STATE}"), key=lambda f: f.stat().st_mtime)
    progress: dict[Path, Progress] = {}
    for file in states:
        with suppress(RunError):  # damaged: not one to go on with
            known = progress_of(file.parent)
            if known is not None:
                progress[file.parent] = known
    return progress


def _newest_to_resume(stem: str) -> Path:
    """The newest unfinished run, else the newest that can be lengthened."""
    candidates = list(unfinished_runs(stem)) or list(_with_state(stem))
    if not candidates:
        raise RunError(f"{home.runs()}: no run named {stem}_* to resume; pass --out, or start one without --resume")
    return candidates[-1]


def check_run_folder(folder: Path, request: RunRequest) -> None:
    """Make sure that a run may start or go on in `folder`; raises as `hold_run_folder`."""
    check_writable(folder)
    has_state, has_weights = (folder / STATE).is_file(), (folder / WEIGHTS).is_file()
    if not _is_ours(folder, request.made_by):
        raise ExistsError(f"{folder} holds other files and no run; choose another --out")
    if request.resume and not has_state and has_weights:
        instead = "" if request.made_by == "distill" else "start from them with --init and "
        raise RunError(
            f"{folder}: holds weights and no {STATE}, so it cannot be continued; {instead or 'choose '}another --out"
        )
    if (has_state or has_weights) and not request.resume:
        _refuse_replacing(folder, request)


def _refuse_replacing(folder: Path, request: RunRequest) -> None:
    if not request.overwrite:
        going_on = "--resume to continue it, " if (folder / STATE).is_file() else ""
        raise ExistsError(f"{folder} holds a run; pass {going_on}--overwrite to replace it, or another --out")
    made_by = maker(folder)
    if made_by not in (None, request.made_by):
        raise ExistsError(
            f"{folder}: was made by 'echosynth {made_by}', so 'echosynth {request.made_by}' does not replace it; "
            "remove it yourself, or choose another --out"
        )


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of killed processes; the folder is held, so nobody is writing them."""
    for leftover in [*folder.glob(f"{PARTIAL}*"), *folder.glob(f"*/{PARTIAL}*")]:
        if leftover.is_file():
            leftover.unlink(missing_ok=True)


def start_run(
    folder: Path,
    description: Description,
    settings: Mapping[str, Any],
    identity: Mapping[str, Any],
    resume: bool,
    data: TrainingData | None = None,
) -> None:
    """Description, settings and data of the run; what an overwritten run left is set aside, its weights first.

    Raises RunError, and touches nothing, when a run that is to be resumed has another `identity`.
    """
    if resume:
        check_resumable(folder, identity)
    checksums.forget(folder)
    if not resume or not (folder / STATE).is_file():
        _set_aside(folder)
    if not resume:
        (folder / READER).unlink(missing_ok=True)
    write_json(folder / DESCRIPTION, description.as_json())
    write_json(folder / _SETTINGS, settings)
    mark(folder, str(settings["command"]))
    if data is not None:
        write_training_data(folder, data)


def _set_aside(folder: Path) -> None:
    """What was trained in `folder` goes; a finished run waits in FORMER until `drop_former`."""
    if _is_finished(folder):
        shutil.rmtree(folder / FORMER, ignore_errors=True)
        (folder / FORMER).mkdir()
        for name in (DESCRIPTION, _SETTINGS, DATA):
            if (folder / name).is_file():
                shutil.copy2(folder / name, folder / FORMER)
        for name in (*_TRAINED, AVERAGES):
            if (folder / name).exists():
                os.replace(folder / name, folder / FORMER / name)
    for name in (*_TRAINED, "history.csv"):
        (folder / name).unlink(missing_ok=True)
    for name in ("tensorboard", "samples", AVERAGES, FINISH):
        shutil.rmtree(folder / name, ignore_errors=True)


def _is_finished(folder: Path) -> bool:
    try:
        progress = progress_of(folder)
    except RunError:  # damaged; its weights may be sound
        progress = None
    return (folder / WEIGHTS).is_file() and (progress is None or progress.finished)


def drop_former(folder: Path) -> None:
    """The run in `folder` has finished: remove the one that it replaces."""
    shutil.rmtree(folder / FORMER, ignore_errors=True)


def check_resumable(folder: Path, identity: Mapping[str, Any]) -> None:
    """`check_identity` of a run that has saved something; one that has not starts from the beginning."""
    if (folder / STATE).is_file():
        check_identity(folder, identity)


def _options(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Those that give an optimiser of before again: a preset may have got another one."""
    if own.get("optimizer") == theirs.get("optimizer") or not {"optimizer", "lr"} <= theirs.keys():
        return ""
    return f" (--optimizer {theirs['optimizer']!s:.20} --lr {theirs['lr']!s:.20})"


def check_identity(folder: Path, mine: Mapping[str, Any], advice: str = TRAIN_AGAIN) -> None:
    """Raise RunError unless the state in `folder` was made with the settings `mine`; names the first that differs.

    More images are no difference: a run can be lengthened. `advice`: what helps when the state is damaged.
    """
    header = read_state_header(folder, advice)
    theirs = {**header.get("identity", {}), "seed": header.get("seed")}
    own = json.loads(json.dumps(dict(mine)))
    unnamed = {key: default for key, default in _UNNAMED.items() if key in theirs or key in own}
    for key, value in {**unnamed, **own}.items():
        before = theirs.get(key, {**_DEFAULTS, **_UNNAMED}.get(key))
        longer = key == "images" and isinstance(before, int) and value >= before
        if value != before and not longer:
            raise RunError(
                f"{folder}: was started with {key} = {before!s:.200}, asked to resume with {value!s:.200}; "
                f"use the same settings{_options(own, theirs)}, or another --out"
            )
