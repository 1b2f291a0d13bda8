"""A small experiment, its cells and scores, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from echo_synth import specs
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.experiment.cells import build_cells
from echo_synth.experiment.commands import StageCommands
from echo_synth.experiment.inputs import SweepInputs
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell
from echo_synth.experiment.workspace import Workspace

FINGERPRINTS = {"real": "r", "maps": "m"} | dict.fromkeys(specs.DIFFUSION_MODELS, "w")
GRID = {
    "real": 501,
    "count": 8,
    "models": {"edm-l64": {"nfe": [5, 20]}},
    "cells": {
        "real": {"kind": "real"},
        "mixed": {"kind": "mix", "base": "edm-l64_nfe20_seed0", "share": 0.5, "patients": 2},
    },
}


def cells_of(changes: dict[str, object] | None = None, **fingerprints: str) -> dict[str, Cell]:
    """Cells of GRID by name."""
    spec = SweepSpec.model_validate(GRID | (changes or {}))
    return {c.name: c for c in build_cells(spec, FINGERPRINTS | fingerprints)}


def keys_of(cells: dict[str, Cell]) -> dict[tuple[str, str], str]:
    """Hashes of all stages by cell and kind."""
    return {(name, s.kind): s.key for name, c in cells.items() for s in c.stages}


def runner_in(folder: Path) -> Runner:
    """A runner that has nothing to read."""
    real = RawDataset(folder / "Dataset501_CAMUS")
    workspace = Workspace(folder, real)
    inputs = SweepInputs(real, folder, {}, {}, {})
    return Runner(workspace, StageCommands(workspace, inputs, "cpu"))


def scores_of(shift: float) -> pd.DataFrame:
    """Six patients, two images each; every score is `shift` above the cell of shift 0, but for one patient, who is below."""
    return pd.DataFrame(
        [
            {"patient": f"p{i // 2}", "case": f"c{i}", "structure": s}
            | dict.fromkeys(METRICS, 0.5 + (shift if i > 1 else -shift))
            for i in range(12)
            for s in ("lv_endo", "la")
        ]
    )
