"""Where results are written in place: into a folder that may hold other things, or onto one file.

A command that measures leaves a few files and a settings.json that names it. It never writes beside
the settings of another command, whose identity they are (of a run, of a dataset), and it replaces
its own results with `--overwrite` only, and only once the new ones are whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from echo_synth.claims import claim, lock_in
from echo_synth.errors import ExistsError
from echo_synth.files import PARTIAL, check_writable, disk_error, read_json, write_json
from echo_synth.folders import maker, mark

_SETTINGS = "settings.json"
_NEW, _WHOLE = f"{PARTIAL}results.new", f"{PARTIAL}results"  # being written; whole, on its way into place
_NAMES = f"{PARTIAL}names.json"  # what a whole one holds
_WAIT_SECONDS = 60.0  # for another command that writes into the folder


def check_results(folder: Path, made_by: str, files: Sequence[str], overwrite: bool) -> None:
    """Raise unless the command `made_by` may write `files` and its settings.json into `folder`.

    Touches nothing but whole results that a killed command did not bring into place; they are now.

    Raises:
        ExistsError: another command made the folder, or results are there and `overwrite` is not given.
        DataError: the folder is a file, or not writable.
    """
    check_writable(folder)
    if (folder / _WHOLE).is_dir():
        with claim(lock_in(folder), _WAIT_SECONDS):
            _bring_into_place(folder, files)
    by = maker(folder) if folder.is_dir() else None
    if by not in (None, made_by):
        raise ExistsError(f"{folder} belongs to 'echosynth {by}'; choose another --out for 'echosynth {made_by}'")
    if by is None and os.path.lexists(folder / _SETTINGS):
        raise ExistsError(
            f"{folder / _SETTINGS}: does not say that 'echosynth {made_by}' made it; choose another --out"
        )
    for name in files:
        check_file(folder / name, overwrite, ours=by == made_by)


@contextmanager
def new_results(folder: Path, made_by: str | None, files: Sequence[str]) -> Iterator[Path]:
    """A folder to fill with results, which replace those in `folder` together once the block ends without an error.

    What is there stays until then, so that neither a mistake nor a full disk nor a kill loses it.
    The first of `files` goes first and comes last: where it is, everything is of one piece.

    Args:
        made_by: see `folders.mark`; None leaves the folder to whoever made it.
        files: all that such a command leaves; what is there of them and not written now is removed.

    Raises:
        HeldError: another process writes into the folder.
        DataError: no space or no right to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise disk_error(e, folder) from e
    new = folder / _NEW
    with claim(lock_in(folder), _WAIT_SECONDS):
        _bring_into_place(folder, files)
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir()
            yield new
            if made_by is not None:
                mark(new, made_by)
            write_json(new / _NAMES, [p.name for p in new.iterdir()])
            os.rename(new, folder / _WHOLE)
            _bring_into_place(folder, files)
        except OSError as e:
            raise disk_error(e, folder, [folder]) from e
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _bring_into_place(folder: Path, files: Sequence[str]) -> None:
    """Move whole results into `folder`; can be killed and done again."""
    whole, last = folder / _WHOLE, files[0]
    if not whole.is_dir():
        return
    if (whole / _NAMES).is_file():
        (folder / last).unlink(missing_ok=True)
        written = read_json(whole / _NAMES)
        for name in files:
            if isinstance(written, list) and name not in written:
                (folder / name).unlink(missing_ok=True)
        names = [p.name for p in whole.iterdir() if p.name not in (last, _NAMES)]
        for name in (*sorted(names), last):
            if (whole / name).exists():
                os.replace(whole / name, folder / name)
    shutil.rmtree(whole, ignore_errors=True)


def check_file(path: Path, overwrite: bool, ours: bool, hint: str = "another --out") -> None:
    """Raise ExistsError unless the file `path` may be written: it is not there, or it is `ours` and `overwrite` is given.

    A folder, a link, a pipe or a device is never replaced.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "a device"
        raise ExistsError(f"{path}: is {kind} and is never replaced; choose {hint}")
    if not overwrite:
        raise ExistsError(f"{path} exists; pass --overwrite to replace it, or choose {hint}")
    if not ours:
        raise ExistsError(f"{path}: does not say that this command made it; remove it yourself, or choose {hint}")
