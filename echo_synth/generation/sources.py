"""What images are drawn with where nobody says: the maps, the Γ-VAE, the solver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_synth import specs
from echo_synth.errors import RunError
from echo_synth.files import read_json
from echo_synth.home import maps
from echo_synth.runs.folder import DiffusionRun, Run, VaeRun, find_vae_of, open_run


def newest_maps() -> Path:
    """The map folder that was made last below ECHOSYNTH_HOME/maps, else the bundled maps."""
    folders = [p.parent for p in maps().glob("*/index.parquet")]
    return max(folders, key=lambda p: p.stat().st_mtime) if folders else specs.root() / "bundled" / "maps"


def vae_run(weights: DiffusionRun, vae_model: str | None, folder: Path | None) -> VaeRun | None:
    """The Γ-VAE that `weights` was trained with; None for a model on pixels.

    Raises RunError when it is not found, or when `folder` holds another one.
    """
    if vae_model is None:
        return None
    if folder is None:
        return find_vae_of(weights.description, vae_model, weights.folder)
    run = open_run(folder, "vae")
    if run.hash() != weights.description.vae:
        raise RunError(
            f"{folder}: its weights are {run.hash()}, {weights.folder} was trained on {weights.description.vae}"
        )
    return run


def solver_of(weights: Run, solver: str, nfe: int, known: Mapping[int, str]) -> str:
    """`solver`, or for auto what study-solvers found for this run, else for this model (`known`), else Heun (the paper's choice)."""
    if solver != "auto":
        return solver
    file = weights.folder / "solvers.json"
    recommended = read_json(file)["recommended"] if file.is_file() else known
    return solver_for(recommended, nfe) if recommended else "heun"


def solver_for(recommended: Mapping[Any, str], nfe: int) -> str:
    """The recommendation at the studied NFE that is nearest (in ratio) to `nfe`; keys are numbers or their text."""
    return str(recommended[min(recommended, key=lambda n: abs(math.log(int(n) / nfe)))])
