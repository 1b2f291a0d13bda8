"""Folders that appear complete or not at all, and replace only what the same kind of command made.

A folder carries a marker, `echosynth.json`, that says which command made it. `--overwrite` replaces
a folder with the right marker, once its successor is complete, and nothing else: no input, no
parent of one, not the current folder, no file, link, device or mount, and no folder that holds what came later.

Several folders of one command appear together: a journal beside each says what is being renamed,
so that after a kill the next command puts everything back as it was before.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from echo_synth import checksums
from echo_synth.claims import claim, lock_beside
from echo_synth.errors import DataError, ExistsError, HeldError
from echo_synth.files import PARTIAL, check_writable, disk_error, open_file, write_json

MARKER = "echosynth.json"
_SETTINGS = "settings.json"


def mark(folder: Path, made_by: str) -> None:
    """Write the marker: `folder` was made by the command `made_by`, e.g. "make-maps"."""
    write_json(folder / MARKER, {"made_by": made_by})


def maker(folder: Path) -> str | None:
    """Which command made `folder`, by its marker, or by what older versions left; None where nothing says."""
    for name, key in ((MARKER, "made_by"), (_SETTINGS, "command")):
        try:
            with open_file(folder / name) as file:
                content = json.loads(file.read(1 << 20))
            if isinstance(content, dict) and isinstance(content.get(key), str):
                return str(content[key])
        except (OSError, ValueError, RecursionError):
            continue
    return _maker_of_older(folder)


# Files that only one command leaves, for folders of versions without marker and settings.
_SIGNS = {"prepared.json": "prepare", "clean.npy": "latents"}


def _maker_of_older(folder: Path) -> str | None:
    for name, command in _SIGNS.items():
        if (folder / name).is_file():
            return command
    try:
        with open_file(folder / "cases.csv") as file:
            columns = file.readline(10000).decode().strip().split(",")
    except (OSError, ValueError):
        return None
    return "convert-camus" if "native_rows" in columns and (folder / "train").is_dir() else None


def check_target(
    path: Path, made_by: str, overwrite: bool, inputs: Sequence[Path] = (), hint: str = "another name"
) -> None:
    """Raise unless `path` may become a folder made by the command `made_by`; touches nothing.

    Commands call it before they start to work; `new_folders` does so again.

    Args:
        inputs: files and folders that the command reads; neither they nor a folder around them
            is ever replaced.
        hint: what the user can choose instead, e.g. "another --out".

    Raises:
        ExistsError: something is there that may not be replaced.
        DataError: the folder around it is not writable.
    """
    _refuse_precious(path, inputs, hint)
    check_writable(path.parent)
    if not os.path.lexists(path):
        return
    if _beside(path, "journal").exists():
        return  # of a killed command; `new_folders` puts it right, then checks again
    if not overwrite:
        raise ExistsError(f"{path} exists; pass --overwrite to replace it, or choose {hint}")
    if maker(path) != made_by and any(path.iterdir()):
        known = maker(path)
        by = f"was made by 'echosynth {known}'" if known else f"does not say that 'echosynth {made_by}' made it"
        raise ExistsError(f"{path}: {by}, so it is not replaced; remove it yourself, or choose {hint}")
    stranger = _stranger(path)
    if stranger:
        raise ExistsError(
            f"{path}: holds {stranger}, which 'echosynth {made_by}' did not make, so it is not replaced; move {stranger} "
            f"away, or choose {hint}"
        )


# What file systems and desktops leave of their own accord.
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
_LITTER_STARTS = (".nfs", "._")


def _stranger(folder: Path) -> str | None:
    """A file in `folder` or below that came after it was finished: that is not in its SHA256SUMS, where there is one."""
    try:
        sums = checksums.read(folder)
    except DataError:  # damaged: to replace the folder is the way out
        return None
    if not sums:
        return None
    others = {name for name in checksums.files_in(folder) if name not in sums and name != MARKER}
    return min((name for name in others if not _is_litter(name.rsplit("/", 1)[-1])), default=None)


def _is_litter(name: str) -> bool:
    return name in _LITTER or name.startswith(_LITTER_STARTS)


def _refuse_precious(path: Path, inputs: Sequence[Path], hint: str) -> None:
    """Raise ExistsError for what is never replaced, whatever it holds."""
    for source in inputs:
        if _is_around(path, source):
            raise ExistsError(f"{path}: is or holds the input {source} and is never replaced; choose {hint}")
    thing = _not_replaceable(path) if os.path.lexists(path) else None
    if thing:
        raise ExistsError(f"{path}: is {thing} and is never replaced; choose {hint}")


def _not_replaceable(path: Path) -> str | None:
    """What `path` is, where that is never replaced; None for a folder that may be."""
    if path.is_symlink():
        return "a link"
    if not path.is_dir():
        return "a file" if path.is_file() else "a device"
    if os.path.ismount(path):
        return "a mounted disk"
    if _is_around(path, Path.cwd()):
        return "the current folder or one around it"
    return None


def _is_around(path: Path, inner: Path) -> bool:
    """Whether `inner` is `path` or below it, whatever links and spellings lead there."""
    real, chain = path.resolve(), inner.resolve()
    if chain.is_relative_to(real):
        return True
    if not real.exists():
        return False
    return any(p.exists() and os.path.samefile(p, real) for p in (chain, *chain.parents))


@dataclass(frozen=True)
class _Step:
    """One folder on its way: `new` becomes `path`, what was there waits as `old`."""

    path: Path
    new: Path
    old: Path

    @classmethod
    def of(cls, path: Path) -> _Step:
        return cls(path, _beside(path, "new"), _beside(path, "old"))


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}.{role}")


def check_apart(paths: Sequence[Path]) -> None:
    """Raise ExistsError when one of the folders that a command makes would be inside another, or be the same."""
    for path in paths:
        inside = [other for other in paths if other is not path and _is_around(path, other)]
        if inside:
            raise ExistsError(f"{inside[0]} would be inside {path}; choose folders beside each other")


@contextmanager
def new_folder(
    path: Path, made_by: str, overwrite: bool, inputs: Sequence[Path] = (), wait: float = 0.0
) -> Iterator[Path]:
    """A folder that appears at `path` complete or not at all, see `new_folders`."""
    with new_folders([path], made_by, overwrite, inputs, wait) as (new,):
        yield new


@contextmanager
def new_folders(
    paths: Sequence[Path], made_by: str, overwrite: bool, inputs: Sequence[Path] = (), wait: float = 0.0
) -> Iterator[list[Path]]:
    """Folders that appear at `paths` together and complete, or not at all; the last one is renamed last.

    Yields temporary siblings to fill; marks them and renames them into place when the block ends
    without an error, and removes them otherwise. What an earlier, killed command left is put right
    first. An existing folder stays until its successor is whole.

    Args:
        inputs: see `check_target`.
        wait: seconds to wait for another process that is at work on one of them.

    Raises:
        ExistsError: see `check_target`; or one of them would be inside another.
        HeldError: another process is at work on one of them.
        DataError: no space or no right to write.
    """
    check_apart(paths)
    for path in paths:
        _refuse_precious(path, inputs, "another name")
        check_writable(path.parent)
    steps = [_Step.of(path) for path in paths]
    try:
        with ExitStack() as held:
            claims = [held.enter_context(claim(lock_beside(step.path), wait)) for step in steps]
            for step in steps:
                recover(step.path, [s.path for s in steps])
                check_target(step.path, made_by, overwrite, inputs)
            for step in steps:
                held.enter_context(_made(step.new))
            yield [step.new for step in steps]
            for step, own in zip(steps, claims, strict=True):
                mark(step.new, made_by)
                own.check()
            _commit(steps)
    except OSError as e:
        raise disk_error(e, paths[0], [*paths, *(s.new for s in steps)]) from e


@contextmanager
def _made(new: Path) -> Iterator[None]:
    """A new folder, locked for as long as this process lives and works on it; removed if it is still there at the end."""
    new.mkdir()
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _try_lock(descriptor)
        yield
    finally:
        _remove(new)
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Whether nobody else has locked it; where the file system knows no locks, nobody has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _refuse_living(new: Path, path: Path) -> None:
    """Raise HeldError when the process that fills `new` lives, a stopped one that no longer keeps its claim included."""
    if not new.is_dir() or new.is_symlink():
        return
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _try_lock(descriptor):
            raise HeldError(
                f"{path}: another process is at work on it; wait until it has ended, or choose another folder"
            )
    finally:
        os.close(descriptor)


def _commit(steps: Sequence[_Step]) -> None:
    """Rename all into place; with a journal where one rename is not enough."""
    journals = [_beside(step.path, "journal") for step in steps]
    if len(steps) > 1 or steps[0].path.exists():
        names = ("path", "new", "old")
        entries = [{name: str(getattr(step, name).absolute()) for name in names} for step in steps]
        for journal in journals:
            write_json(journal, entries)
    try:
        for step in steps:
            if step.path.exists():
                os.rename(step.path, step.old)
            os.rename(step.new, step.path)
    except BaseException:
        _put_back(steps)
        raise
    finally:
        for journal in journals:
            journal.unlink(missing_ok=True)
    for step in steps:
        _remove(step.old)


def _put_back(steps: Sequence[_Step]) -> None:
    """Undo the renames that were done; can itself be interrupted and done again."""
    for step in steps:
        if not step.new.exists() and step.path.exists():
            os.rename(step.path, step.new)
        if step.old.exists() and not step.path.exists():
            os.rename(step.old, step.path)


def recover(path: Path, mine: Sequence[Path] = ()) -> None:
    """Put right what a killed command left of `path` and of the folders that were to appear with it.

    Args:
        mine: folders that this process has claimed already, `path` among them.
    """
    _refuse_living(_beside(path, "new"), path)
    journal = _beside(path, "journal")
    steps = _read_journal(journal, path) if journal.exists() else []
    if not all(_is_agreed(step, steps) for step in steps):
        steps = []  # nothing was renamed yet, or everything was
    with ExitStack() as held:
        own = {p.absolute() for p in mine}
        for step in steps:
            if step.path not in own and step.path.parent.is_dir():
                held.enter_context(claim(lock_beside(step.path)))
        if any(step.new.exists() for step in steps):
            _put_back(steps)
        for step in (*steps, _Step.of(path)):
            _beside(step.path, "journal").unlink(missing_ok=True)
    for step in (*steps, _Step.of(path)):
        _remove(step.new)
        if step.path.exists():
            _remove(step.old)
        if step.path.exists() and os.path.lexists(step.old):
            raise DataError(f"{step.old}: was replaced by an earlier command and cannot be removed; remove it yourself")
    for leftover in _of_older_versions(path):
        _remove(leftover)


def _of_older_versions(path: Path) -> list[Path]:
    """What killed commands of versions left that named them by process; never `path.5.new`, which belongs to `path.5`."""
    start = f"{PARTIAL}{path.name}."
    return [p for p in path.parent.glob(f"{escape(start)}*") if p.name.removeprefix(start).isdecimal()]


def _is_agreed(step: _Step, steps: Sequence[_Step]) -> bool:
    """Whether the journal beside the folder says the same: nothing is renamed before all have one, nor by a foreign one."""
    journal = _beside(step.path, "journal")
    return journal.is_file() and _read_journal(journal, step.path) == list(steps)


def _read_journal(journal: Path, path: Path) -> list[_Step]:
    try:
        with open_file(journal) as file:
            entries: list[dict[str, Any]] = json.loads(file.read())
        steps = [_Step.of(Path(entry["path"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise DataError(f"{journal}: not readable ({e}); it belongs to an interrupted command, remove it") from None
    return steps if path.absolute() in [step.path for step in steps] else []


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            _open_for_writing(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _open_for_writing(folder: Path) -> None:
    """The right to write for the owner, here and below: a folder without it keeps what is in it."""
    with suppress(OSError):
        folder.chmod(stat.S_IRWXU)
    for at, inner, _files in os.walk(folder):
        for name in inner:
            with suppress(OSError):
                if not os.path.islink(os.path.join(at, name)):
                    os.chmod(os.path.join(at, name), stat.S_IRWXU)
