"""How a run starts: which folder it may use, and what lies in it from the first moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from echo_synth import home
from echo_synth.errors import ExistsError, RunError
from echo_synth.files import check_writable, write_json
from echo_synth.runs.description import Description
from echo_synth.runs.folder import AVERAGES, DESCRIPTION, STATE, WEIGHTS


def choose_run_folder(model: str, size: str, dataset: str, out: Path | None, resume: bool, overwrite: bool) -> Path:
    """Folder of this run. A resumed one must exist; a new one must not hold a run.

    Raises:
        RunError: nothing to resume.
        ExistsError: `out` holds a run and neither `resume` nor `overwrite` is given.
    """
    folder = _default_folder(f"{model}_{size}_{dataset}", resume) if out is None else out.absolute()
    return check_run_folder(folder, resume, overwrite)


def check_run_folder(folder: Path, resume: bool, overwrite: bool) -> Path:
    """`folder`, after making sure that a run may start or go on there; raises as `choose_run_folder`."""
    check_writable(folder)
    started = (folder / STATE).is_file() or (folder / WEIGHTS).is_file()
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


def start_run(
    folder: Path, description: Description, settings: Mapping[str, Any], identity: Mapping[str, Any], resume: bool
) -> None:
    """Description and settings of the run; what an overwritten run left is removed.

    Raises RunError, and touches nothing, when a run that is to be resumed has another `identity`.
    """
    if resume:
        check_identity(folder, identity)
    else:
        for name in (STATE, WEIGHTS, "history.csv"):
            (folder / name).unlink(missing_ok=True)
        for name in ("tensorboard", "samples", AVERAGES):
            shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / DESCRIPTION, description.as_json())
    write_json(folder / "settings.json", settings)


def check_identity(folder: Path, mine: Mapping[str, Any]) -> None:
    """Raise RunError unless the state in `folder` was made with the settings `mine`; names the first that differs."""
    try:
        with safe_open(folder / STATE, framework="pt") as f:
            metadata = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except (SafetensorError, OSError, ValueError) as e:
        raise RunError(f"{folder / STATE}: not a readable safetensors file ({e})") from None
    theirs = {**metadata.get("identity", {}), "seed": metadata.get("seed")}
    own = json.loads(json.dumps(dict(mine)))
    changed = [k for k in own if own[k] != theirs.get(k)]
    if changed:
        k = changed[0]
        raise RunError(
            f"{folder}: was started with {k} = {theirs.get(k)}, asked to resume with {own[k]}; "
            "use the same settings, or another --out"
        )
