"""Cells as jobs."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import submitit

from echo_synth.errors import RunError
from echo_synth.experiment.cluster import JobLimits
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell, Stage
from echo_synth.experiment.sweep import Sweep
from echo_synth.files import write_json
from tests.experiment.sweeps import GRID, runner_in
from tests.warm import Warm

pytestmark = pytest.mark.slow


def test_the_gpus_of_one_machine_share_the_cells(warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # For the jobs and what they start. What leads a job stays Python itself: submitit knows it by its number.
    monkeypatch.setattr(submitit, "LocalExecutor", partial(submitit.LocalExecutor, python=warm.python))
    runner = runner_in(tmp_path)
    cells = [Cell(f"c{i}", {"kind": "real"}, (Stage("data", {"kind": "real", "i": i}),)) for i in range(3)]
    for cell in cells:
        write_json(runner.workspace.folder(cell.stages[0]) / "done.json", {})
    monkeypatch.setattr("echo_synth.experiment.cluster.gpu_count", lambda: 2)

    def submitted(chosen: list[Cell], gpus: int) -> None:
        planned = Sweep(SweepSpec.model_validate(GRID), runner.commands.inputs, chosen, chosen, runner)
        planned.run_on("local", JobLimits(hours=0.1, gpus=gpus), lambda line: None)

    submitted(cells, gpus=1)
    assert len(list(tmp_path.glob("jobs/*_submitted.pkl"))) == 2
    results = [pickle.loads(file.read_bytes()) for file in tmp_path.glob("jobs/*_result.pkl")]
    assert results == [("success", [])] * 2  # no cell of either failed
    assert len(pd.read_csv(tmp_path / "results.csv")) == 3
    with pytest.raises(RunError, match="--gpus 3: this machine has 2"):
        submitted(cells, gpus=3)
    broken = Cell("broken", {"kind": "real"}, (Stage("evaluate", {"repeats": 1, "kind": "real"}),))
    with pytest.raises(RunError, match=r"1 of 2 cells failed \(broken\)"):
        submitted([cells[0], broken], gpus=1)
