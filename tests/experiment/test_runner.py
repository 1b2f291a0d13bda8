"""Stages as commands, and cells that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_synth.errors import RunError
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.shell import inherited_environment
from echo_synth.experiment.stages import Cell, Stage
from tests.experiment.sweeps import runner_in


def test_the_shell_does_not_change_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_NNUNET_EPOCHS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = inherited_environment()
    assert "ECHOSYNTH_NNUNET_EPOCHS" not in kept
    assert kept["OMP_NUM_THREADS"] == "1"


def test_a_failed_cell_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_in(tmp_path)

    def run(_: Runner, stage: Stage) -> None:
        if stage.config["kind"] == "real":
            raise RunError("no")

    monkeypatch.setattr(Runner, "run", run)
    cells = [Cell(name, {}, (Stage("data", {"kind": name}),)) for name in ("real", "noise")]
    said: list[str] = []
    assert runner.run_cells(cells, said.append) == ["real"]
    assert said[-1].strip().startswith("make the dataset (data-")
