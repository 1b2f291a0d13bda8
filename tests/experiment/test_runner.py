"""Stages as commands, and cells that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from echo_synth.errors import RunError
from echo_synth.experiment.commands import StageCommands
from echo_synth.experiment.runner import Runner, _link
from echo_synth.experiment.shell import inherited_environment
from echo_synth.experiment.stages import Cell, Stage
from tests.experiment.sweeps import runner_in
from tests.warm import Warm

ROOT = Path(__file__).parents[2]


def test_the_shell_does_not_change_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_NNUNET_EPOCHS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(
        "ECHOSYNTH_NNUNET_THREADS", "1"
    )  # of two sweeps at once: changes how fast a segmenter trains only
    kept = inherited_environment()
    assert "ECHOSYNTH_NNUNET_EPOCHS" not in kept
    assert kept["OMP_NUM_THREADS"] == kept["ECHOSYNTH_NNUNET_THREADS"] == "1"


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


_STAGE = """
import sys, time
from pathlib import Path
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.stages import Stage
from tests.experiment.sweeps import runner_in
runner = runner_in(Path(sys.argv[1]))
def execute(self, command, stage):
    with open(Path(sys.argv[1]) / "times", "a") as f: print("begin", file=f)
    time.sleep(0.5)
    with open(Path(sys.argv[1]) / "times", "a") as f: print("end", file=f)
Runner._execute = execute
type(runner.commands).of = lambda self, stage: [["a"], ["b"]]
type(runner.commands).linked = lambda self, stage: []
runner.run(Stage("segmenter", {"kind": "x"}))
"""


@pytest.mark.slow
def test_two_processes_that_need_a_stage_take_turns_and_it_is_done_once(warm: Warm, tmp_path: Path) -> None:
    processes = [subprocess.Popen([warm.python, "-c", _STAGE, str(tmp_path)], cwd=ROOT) for _ in range(2)]
    assert [p.wait(600) for p in processes] == [0, 0]
    assert (tmp_path / "times").read_text().split() == ["begin", "end"] * 2


_PARENT = """
from echo_synth.experiment.shell import run_command
print("up", flush=True)
run_command(["demo", "--minutes", "60", "--out", "demo"], {})
"""


@pytest.mark.slow
def test_a_command_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()

    def children() -> list[Path]:
        found = [p for p in Path("/proc").glob("[0-9]*") if _works_in(p, tmp_path) and p.name != str(parent.pid)]
        return [p for p in found if b"cli.main" in (p / "cmdline").read_bytes()]

    deadline = time.monotonic() + 600  # a busy machine imports for minutes
    while not (tmp_path / "demo").is_dir():  # the command and, below it, one more are at work
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert children()
    parent.kill()
    parent.wait()
    while children():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return Path(os.readlink(process / "cwd")) == folder and bool((process / "cmdline").read_bytes())
    except OSError:
        return False


def test_links_follow_data_that_was_moved(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    for place in ("here", "there"):
        (tmp_path / place / "Dataset501_X").mkdir(parents=True)
        _link(tmp_path / place / "Dataset501_X", folder)
        assert (folder / "Dataset501_X").resolve() == (tmp_path / place / "Dataset501_X").resolve()
    assert [f.name for f in folder.iterdir()] == ["Dataset501_X"]


def test_what_a_stage_took_is_unknown_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmenter that was killed near its end took minutes the second time; estimates believed it took no longer in all."""
    runner = runner_in(tmp_path)
    monkeypatch.setattr(StageCommands, "of", lambda *_: [["list"]])
    stages = [Stage("segmenter", {"kind": name}) for name in ("whole", "cut")]
    monkeypatch.setattr("echo_synth.experiment.runner.run_command", lambda *_: 1)
    with pytest.raises(RunError):
        runner.run(stages[1])
    monkeypatch.setattr("echo_synth.experiment.runner.run_command", lambda *_: 0)
    for stage in stages:
        runner.run(stage)
    took = [runner.workspace.seconds(stage) for stage in stages]
    assert took[0] is not None
    assert took[1] is None
