"""Cells as jobs of Slurm, with programs of Slurm's names; the real one is in test_slurm_service.py."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from echo_synth.claims import lock_beside
from echo_synth.errors import DataError, RunError
from echo_synth.experiment import shell, slurm_watch
from echo_synth.experiment.cluster import JobLimits
from echo_synth.experiment.slurm import SlurmSweep, refusal
from echo_synth.experiment.slurm_states import JobState, job_states
from echo_synth.experiment.slurm_watch import Watch
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell, Stage
from echo_synth.experiment.sweep import Sweep
from tests.experiment.fake_slurm import install
from tests.experiment.sweeps import GRID, runner_in

TRACE = """Job (task=0) failed during processing with trace:
----------------------
Traceback (most recent call last):
  File "x.py", line 1, in f
    raise RunError("no: weights")
echo_synth.errors.RunError: no weights

----------------------
You can check full logs with: job.stderr(0)
"""
QUICK = {"ASK_SECONDS": 0.0, "RESULT_SECONDS": 0.0, "LOST_SECONDS": 0.0, "_LOOK_SECONDS": 0.01}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's programs, the first of PATH."""
    folder = install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return folder


def _cells(number: int, kind: str = "real") -> list[Cell]:
    """Cells of all real patients, which takes no command."""
    stages = [Stage("data", {"kind": kind, "patients": None, "i": i}) for i in range(number)]
    return [Cell(f"c{i}", {"kind": "real"}, (stage,)) for i, stage in enumerate(stages)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_cells_run_as_jobs_and_are_submitted_once(slurm: Path, tmp_path: Path, number: int) -> None:
    runner, said = runner_in(tmp_path / "sweep"), list[str]()
    cells = _cells(number)
    planned = Sweep(SweepSpec.model_validate(GRID), runner.commands.inputs, cells, cells, runner)
    left = [tmp_path / "sweep/jobs" / f"7_{f'{i}_' if number > 1 else ''}0_result.pkl" for i in range(number)]
    left[0].parent.mkdir(parents=True)
    for result in left:  # of jobs of the same ids, on another cluster, a moment ago
        result.write_bytes(b"")
    planned.run_on("slurm", JobLimits(), said.append)
    assert all(runner.workspace.state(c) == "done" for c in cells)
    assert all(result.stat().st_size for result in left)
    record = json.loads((tmp_path / "sweep/jobs/jobs.json").read_text())
    assert {k: v["job"] for k, v in record.items()} == {
        c.name: f"7_{i}" if number > 1 else "7" for i, c in enumerate(cells)
    }
    (slurm / "submitted.sh").unlink()
    planned.run_on("slurm", JobLimits(), said.append)  # nothing is left to do
    assert not (slurm / "submitted.sh").exists()


def test_jobs_that_are_in_the_queue_are_not_submitted_again(slurm: Path, tmp_path: Path) -> None:
    runner, said = runner_in(tmp_path / "sweep"), list[str]()
    first, second = _cells(2)
    jobs = tmp_path / "sweep/jobs"
    jobs.mkdir(parents=True)
    named = {"ends_with": first.stages[0].key, "name": "echosynth-sweep-0"}
    record = {"c0": {"job": "5_0"} | named, "c1": {"job": "5_1"} | named | {"ends_with": "another"}}
    (jobs / "jobs.json").write_text(json.dumps(record))
    (slurm / "states/5_0").write_text("RUNNING|echosynth-sweep-0|None")
    (slurm / "states/5_1").write_text("RUNNING|echosynth-sweep-0|None")
    sweep = SlurmSweep(runner, JobLimits(), said.append)
    assert {cell: known.job for cell, known in sweep._in_queue([first, second]).items()} == {"c0": "5_0"}
    for other in ("TIMEOUT|echosynth-sweep-0|TimeLimit", "RUNNING|of somebody else|None", "RUNNING||None"):
        (slurm / "states/5_0").write_text(other)
        assert sweep._in_queue([first, second]) == {}, other
    (slurm / "down").touch()
    with pytest.raises(RunError, match="no answer from Slurm's controller"):
        sweep._in_queue([first, second])
    record["c0"]["job"] = "5; rm -rf"
    (jobs / "jobs.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"jobs\.json"):
        sweep._in_queue([first])


def test_two_commands_at_once_submit_a_cell_once(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second looks into the queue only when the first has written down what it submitted."""
    sweep = SlurmSweep(runner_in(tmp_path / "sweep"), JobLimits(), lambda line: None)
    cells, events = _cells(1), list[str]()
    lock = lock_beside(tmp_path / "sweep/jobs/jobs.json")

    def noted(name: str) -> Callable[[SlurmSweep, list[Cell]], object]:
        plain = getattr(SlurmSweep, name)

        def call(asked: SlurmSweep, cells: list[Cell]) -> object:
            events.append(f"{name} {'locked' if lock.is_file() else 'open'}")
            return plain(asked, cells)

        return call

    for name in ("_in_queue", "_submit"):
        monkeypatch.setattr(SlurmSweep, name, noted(name))
    first = sweep._hand_in(cells)
    assert events == ["_in_queue locked", "_submit locked"]
    (slurm / "states/7").write_text(f"PENDING|{first['c0'].name}|Resources")
    assert sweep._hand_in(cells) == first
    assert len(events) == 3
    assert not lock.exists()


def test_what_was_asked_for_reaches_sbatch(slurm: Path, tmp_path: Path) -> None:
    runner = runner_in(tmp_path / "sweep")
    limits = JobLimits(1.5, 2, "gpu", 4, 16, "lab", "long", "a100&nvme", at_once=2, restarts=5)
    (slurm / "refuse").write_text("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(
        RunError, match=r"refused the jobs \(invalid partition specified: gpu\); choose another --partition"
    ):
        SlurmSweep(runner, limits, print).run(_cells(3), lambda: None)
    lines = re.findall(r"#SBATCH --(\S+)", (slurm / "submitted.sh").read_text())
    expected = [
        "account=lab",
        "array=0-2%2",
        "constraint='a100&nvme'",
        "cpus-per-task=4",
        "gpus-per-node=2",
        "mem=16384M",
    ]
    assert {*expected, "partition=gpu", "qos=long", "requeue", "signal=USR2@90", "time=90"} <= set(lines)
    assert " -c 4 " in (slurm / "submitted.sh").read_text()


def test_what_nobody_asked_for_is_left_to_the_site(slurm: Path, tmp_path: Path) -> None:
    (slurm / "refuse").write_text("no")
    with pytest.raises(RunError, match="refused"):
        SlurmSweep(runner_in(tmp_path / "sweep"), JobLimits(), print).run(_cells(1), lambda: None)
    asked = {line.partition("=")[0] for line in re.findall(r"#SBATCH --(\S+)", (slurm / "submitted.sh").read_text())}
    assert asked == {"error", "job-name", "nodes", "open-mode", "output", "requeue", "signal", "time", "wckey"}


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "--account",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "--qos"),
        ("sbatch: error: Batch job submission failed: Invalid feature specification", "--constraint"),
        ("sbatch: error: Memory specification can not be satisfied", "--mem"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "--cpus"),
        (
            "sbatch: error: CPU count per node can not be satisfied\nsbatch: error: Batch job submission failed",
            "--cpus",
        ),
        ("sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification", "--gpus"),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
            "--hours",
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "--only"),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "try again"),
    ],
)
def test_a_refusal_says_what_to_change(message: str, remedy: str) -> None:
    told = refusal(message)
    assert remedy in told.partition("); ")[2]
    assert "sbatch: error" not in told


def test_slurm_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RunError, match=r"--cluster slurm: no sbatch and srun and .* on this machine; .* or use --cluster local"
    ):
        SlurmSweep(runner_in(tmp_path), JobLimits(), print).run(_cells(1), lambda: None)


def test_states_with_and_without_accounting(slurm: Path) -> None:
    assert job_states({}) == {}
    assert job_states({"5": "n"}) == {}  # squeue does not know it
    (slurm / "states/5_0").write_text("PENDING|n|Resources")
    (slurm / "states/5_1").write_text("CANCELLED by 1000|n|None")
    known = job_states(dict.fromkeys(["5_0", "5_1", "5_2"], "n"))
    assert known == {"5_0": JobState("PENDING", "Resources"), "5_1": JobState("CANCELLED")}
    (slurm / "accounted").write_text("5_2|OUT_OF_MEMORY|n\n5_3|CANCELLED+|n\n5_4|RUNNING|another\n\ngarbage\n")
    states = job_states(dict.fromkeys(["5_0", "5_2", "5_3", "5_4"], "n"))
    assert states == {
        "5_0": JobState("PENDING", "Resources"),
        "5_2": JobState("OUT_OF_MEMORY"),
        "5_3": JobState("CANCELLED"),
    }
    (slurm / "down").touch()
    assert job_states({"5_0": "n"}) is None


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "UNKNOWN"])
def test_a_job_that_only_accounting_takes_for_running_is_lost(slurm: Path, state: str) -> None:
    """The controller lost its state; accounting never learns the end, and the sweep waited for ever."""
    (slurm / "accounted").write_text(f"5|{state}|n\n")
    assert job_states({"5": "n"}) == {}


class _Job:
    """A job that leaves its result when told to."""

    def __init__(self, folder: Path, job_id: str, error: str | None = None) -> None:
        self.job_id, self.error, self.paths = job_id, error, self
        self.result_pickle, self.stdout = folder / f"{job_id}_result", folder / f"{job_id}.out"

    def exception(self) -> BaseException | None:
        return RuntimeError(self.error) if self.error else None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(slurm_watch, name, value)


def _watched(
    monkeypatch: pytest.MonkeyPatch, jobs: dict[str, _Job], answers: list[object]
) -> tuple[dict[str, str], list[str]]:
    """What a watch finds when Slurm gives those answers in turn; of a callable, when it has been called."""

    def answer(_: object) -> object:
        given = answers.pop(0)
        return given() if callable(given) else given

    said: list[str] = []
    monkeypatch.setattr(slurm_watch, "job_states", answer)
    names = {job.job_id: "n" for job in jobs.values()}
    return Watch(jobs, names, said.append, lambda: None).run(), said


@pytest.mark.usefixtures("quick")
def test_a_job_that_ends_without_a_result_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _Job(tmp_path, "5")
    job.stdout.touch()
    problems, _ = _watched(monkeypatch, {"c": job}, [{"5": JobState("OUT_OF_MEMORY")}])
    assert re.fullmatch(
        r"job 5: it ran out of memory; give more with --mem .*; its output is in .*5\.out", problems["c"]
    )


@pytest.mark.usefixtures("quick")
def test_a_job_that_slurm_forgot_is_lost_after_a_while_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(slurm_watch, "LOST_SECONDS", 120.0)
    monkeypatch.setattr(slurm_watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(slurm_watch.time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 50))
    running = {"5": JobState("RUNNING")}
    # Unknown for 100 s, known again, then unknown for good: lost 120 s or more after it was last known.
    problems, _ = _watched(monkeypatch, {"c": _Job(tmp_path, "5")}, [{}, {}, running, {}, {}, {}, {}])
    assert "does not know it any more" in problems["c"]
    assert clock[0] == 6 * 50


@pytest.mark.usefixtures("quick")
def test_a_controller_that_does_not_answer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _Job(tmp_path, "5")
    answers = [None, None, {"5": JobState("RUNNING")}, lambda: job.result_pickle.touch() or {}, {}]
    problems, said = _watched(monkeypatch, {"c": job}, answers)
    assert problems == {}
    assert [line for line in said if "answer" in line] == [
        "Slurm's controller does not answer; waiting until it does",
        "Slurm answers again",
    ]


@pytest.mark.usefixtures("quick")
def test_why_a_job_waits_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, held = _Job(tmp_path, "5"), {"5": JobState("PENDING", "launch failed requeued held")}
    answers: list[object] = [held, held, {"5": JobState("RUNNING")}, lambda: job.result_pickle.touch() or {}, {}]
    _, said = _watched(monkeypatch, {"c": job}, answers)
    assert len(said) == 2
    assert "scontrol release 5" in said[0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TRACE, "no weights; its output"),
        ("submitit.core.utils.UncompletedJobError: Job not requeued because: timed-out too many times.", "--hours"),
        ("KeyboardInterrupt", "ended with an error"),
    ],
)
def test_what_a_job_raised_is_told_without_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, told: str
) -> None:
    job = _Job(tmp_path, "5", error)
    job.result_pickle.touch()
    problems, _ = _watched(monkeypatch, {"c": job}, [])
    assert told in problems["c"]
    assert "Traceback" not in problems["c"]


_COMMAND = """#!{python}
import os, signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(0.3)
    Path("saved").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, save)
Path("group").write_text(str(os.getpgid(0)))
time.sleep(60)
"""


@pytest.mark.parametrize("executor", ["slurm", ""])
def test_a_command_in_a_job_is_out_of_reach_of_the_jobs_signals_and_saves_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "python"
    program.write_text(_COMMAND.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(shell.sys, "executable", str(program))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)

    def on_signal(*_: object) -> None:  # as submitit's handler, in the middle of waiting for the command
        group = tmp_path / "group"
        if not shell._running or not group.is_file() or not group.read_text():  # on a busy machine it starts late
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        shell.let_running_save()

    before = signal.signal(signal.SIGALRM, on_signal)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        status = shell.run_command(["x"], {})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert status == 130
    assert (tmp_path / "saved").is_file()
    own = int((tmp_path / "group").read_text()) != os.getpgid(0)
    assert own == (executor == "slurm")


def test_nothing_is_running_nothing_is_interrupted() -> None:
    start = time.monotonic()
    shell.let_running_save()
    assert time.monotonic() - start < 5
