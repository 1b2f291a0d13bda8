"""Cells as jobs."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from echo_synth.errors import RunError
from echo_synth.experiment.cluster import JobLimits, submit_here, wait
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


class _Job:
    """A job that has ended, with what it raised."""

    job_id = "7"

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.paths = SimpleNamespace(stdout=Path("jobs/7_0_log.out"), result_pickle=Path("jobs/7_0_result.pkl"))

    def exception(self) -> Exception | None:
        return self.error


def test_hours_are_those_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of three cells got the hours of one."""
    asked: list[object] = []

    class Executor(submitit.LocalExecutor):
        def update_parameters(self, **parameters: object) -> None:
            asked.extend(value for name, value in parameters.items() if name == "timeout_min")

        def submit(self, *_: object) -> _Job:
            return _Job(None)

    monkeypatch.setattr(submitit, "LocalExecutor", Executor)
    monkeypatch.setattr("echo_synth.experiment.cluster.gpu_count", lambda: 2)
    cells = [Cell(f"c{i}", {"kind": "real"}, (Stage("data", {"kind": "real", "i": i}),)) for i in range(3)]
    submit_here(runner_in(tmp_path), cells, JobLimits(hours=2))
    submit_here(runner_in(tmp_path), cells, JobLimits(hours=2, gpus=1))
    assert asked == [3 * 120, 2 * 120, 120]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            FailedJobError("…\nJob not requeued because: timed-out and not checkpointable."),
            "it took longer than --hours",
        ),
        (FailedJobError("Traceback\n  line\necho_synth.errors.DataError: no such maps\n"), "no such maps"),
        (UncompletedJobError("Job 7 (task 0) has not produced any output"), "it was killed before it left a result"),
    ],
)
def test_a_failed_job_of_this_machine_says_why(error: Exception, told: str, tmp_path: Path) -> None:
    """The sweep named the cells and the folder of the logs alone."""
    assert wait([_Job(None), _Job(error)], lambda: None)[0].startswith(f"job 7: {told}")
    runner = runner_in(tmp_path)
    cell = Cell("c", {"kind": "real"}, (Stage("data", {"kind": "real"}),))
    planned = Sweep(SweepSpec.model_validate(GRID), runner.commands.inputs, [cell], [cell], runner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("echo_synth.experiment.sweep.submit_here", lambda *_: [_Job(error)])
        with pytest.raises(RunError, match=rf"1 of 1 cells failed \(c\); job 7: {told}"):
            planned.run_on("local", JobLimits(), lambda line: None)
