"""Where results are written in place: into a folder that may hold other things, or onto one file.

A command that measures leaves a few files and a settings.json that names it. It never writes beside
the settings of another command, whose identity they are (of a run, of a dataset), and it replaces
its own results with `--overwrite` only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from echo_synth.errors import ExistsError
from echo_synth.files import check_writable
from echo_synth.folders import maker

_SETTINGS = "settings.json"


def check_results(folder: Path, made_by: str, files: Sequence[str], overwrite: bool) -> None:
    """Raise unless the command `made_by` may write `files` and its settings.json into `folder`; touches nothing.

    Raises:
        ExistsError: another command made the folder, or results are there and `overwrite` is not given.
        DataError: the folder is a file, or not writable.
    """
    check_writable(folder)
    by = maker(folder) if folder.is_dir() else None
    if by not in (None, made_by):
        raise ExistsError(f"{folder} belongs to 'echosynth {by}'; choose another --out for 'echosynth {made_by}'")
    if by is None and os.path.lexists(folder / _SETTINGS):
        raise ExistsError(
            f"{folder / _SETTINGS}: does not say that 'echosynth {made_by}' made it; choose another --out"
        )
    for name in files:
        check_file(folder / name, overwrite, ours=by == made_by)


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
