"""Run folders: which one a command may use, and what lies in it from the first moment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_synth import home, registry
from echo_synth.errors import ExistsError, RunError
from echo_synth.files import check_writable, write_json
from echo_synth.training.checkpoint import STATE, check_identity
from echo_synth.training.posthoc import FOLDER as AVERAGES


def run_folder(model: str, size: str, dataset: str, out: Path | None, resume: bool, overwrite: bool) -> Path:
    """Folder of this run. A resumed one must exist; a new one must not hold a run.

    Raises:
        RunError: nothing to resume.
        ExistsError: `out` holds a run and neither `resume` nor `overwrite` is given.
    """
    folder = _default_folder(f"{model}_{size}_{dataset}", resume) if out is None else out.absolute()
    return claim_folder(folder, resume, overwrite)


def claim_folder(folder: Path, resume: bool, overwrite: bool) -> Path:
    """`folder`, after making sure that a run may start or go on there; raises as `run_folder`."""
    check_writable(folder)
    started = (folder / STATE).is_file() or (folder / registry.WEIGHTS).is_file()
    if resume and not (folder / STATE).is_file():
        raise RunError(f"{folder}: nothing to resume there (no {STATE})")
    if started and not resume and not overwrite:
        raise ExistsError(
            f"{folder} holds a run; pass --resume to continue it, --overwrite to replace it, or another --out"
        )
    return folder


def _default_folder(stem: str, resume: bool) -> Path:
    taken = sorted(home.runs().glob(f"{stem}_*"))
    if resume:
        unfinished = [f for f in taken if (f / STATE).is_file()]
        if not unfinished:
            raise RunError(f"{home.runs()}: no run named {stem}_* to resume; pass --out")
        return max(unfinished, key=lambda f: (f / STATE).stat().st_mtime)
    numbers = [int(f.name.rsplit("_", 1)[1]) for f in taken if f.name.rsplit("_", 1)[1].isdigit()]
    return home.runs() / f"{stem}_{max(numbers, default=0) + 1:02d}"


def begin(
    folder: Path, description: Mapping[str, Any], resolved: Mapping[str, Any], identity: Mapping[str, Any], resume: bool
) -> None:
    """Description and settings of the run; what an overwritten run left is removed.

    Raises RunError, and touches nothing, when a run that is to be resumed has another `identity`.
    """
    if resume:
        check_identity(folder, identity)
    else:
        for name in (STATE, registry.WEIGHTS, "history.csv"):
            (folder / name).unlink(missing_ok=True)
        for name in ("tensorboard", "samples", AVERAGES):
            shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / registry.DESCRIPTION, description)
    write_json(folder / "settings.json", resolved)
