"""Work in processes: in order, with the first error, ended by Ctrl-C, and gone with the process that started it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from echo_synth import parallel
from echo_synth.errors import DataError
from echo_synth.parallel import parallel_map
from tests.cli.terminal import ROOT


def _square(number: int) -> int:
    if number < 0:
        raise DataError("below zero")
    return number * number


def _rest(number: int) -> int:
    time.sleep(0.02)
    return number


def _die(number: int) -> int:
    os._exit(1) if number == 3 else None
    return number


def _note_and_wait(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(120)


def test_results_come_in_order() -> None:
    assert list(parallel_map(_square, range(20), 2)) == [n * n for n in range(20)]


def test_the_first_error_is_raised_here() -> None:
    with pytest.raises(DataError, match="below zero"):
        list(parallel_map(_square, [*range(8), -1, *range(8)], 2))


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(DataError, match="a worker process was killed"):
        list(parallel_map(_die, range(16), 2))


def _start(folder: Path) -> subprocess.Popen[str]:
    code = f"""
from echo_synth.parallel import parallel_map
from tests.test_parallel import _note_and_wait
if __name__ == "__main__":
    try:
        list(parallel_map(_note_and_wait, [f"{folder}/{{i}}" for i in range(16)], 2))
    except KeyboardInterrupt:
        raise SystemExit(130)
"""
    (folder / "work.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, str(folder / "work.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _wait_until(folder: Path, workers: int) -> list[int]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        numbers = [f.read_text() for f in folder.glob("[0-9]*")]
        if len(numbers) >= workers and all(numbers):
            return [int(n) for n in numbers]
        time.sleep(0.1)
    raise AssertionError("no workers")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed alone", "interrupted as a group"])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    process = _start(tmp_path)
    workers = _wait_until(tmp_path, 2)
    os.kill(process.pid, how) if how == signal.SIGKILL else os.killpg(process.pid, how)
    _, errors = process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))
    assert "Traceback" not in errors
    assert process.returncode == (130 if how == signal.SIGINT else -how)


def test_a_slow_end_of_the_workers_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool notices that they are dead while this process still ends the others."""
    complaints: list[object] = []
    kill = BaseProcess.kill

    def slowly(process: BaseProcess) -> None:
        kill(process)
        time.sleep(0.5)

    monkeypatch.setattr(threading, "excepthook", complaints.append)
    monkeypatch.setattr(BaseProcess, "kill", slowly)
    results = parallel_map(_rest, range(400), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert not complaints


def test_ctrl_c_while_workers_start_is_quiet(tmp_path: Path) -> None:
    process = _start(tmp_path)
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("threads", "quota", "most"),
    [
        (None, "max 100000", 99),
        ("2", "max 100000", 2),
        ("4,2", "150000 100000", 2),
        ("0", "", 1),
        ("many", "50000 100000", 1),
    ],
)
def test_cores_are_those_that_may_be_filled(
    threads: str | None, quota: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "available_cores", lambda: 99)
    monkeypatch.setattr(parallel, "_CONTAINER", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert parallel.allowed_cores() == most


@pytest.mark.parametrize(
    ("task", "node", "cores"),
    [
        (None, None, 8),
        ("3", None, 3),
        ("3", "6", 3),
        (None, "1", 1),
        ("99", "99", 8),
        ("0", None, 1),
        ("many", "2(x2)", 8),
    ],
)
def test_a_slurm_job_has_the_cores_that_it_was_given(
    task: str | None, node: str | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, value in (("SLURM_CPUS_PER_TASK", task), ("SLURM_CPUS_ON_NODE", node)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert parallel.available_cores() == cores


def test_memory_is_never_more_than_a_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_CONTAINER", tmp_path)
    free = parallel.available_memory()
    if free is None:
        pytest.skip("this system does not say")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert parallel.available_memory() == 1_000_000 < free
    (tmp_path / "memory.max").write_text("max\n")
    assert (parallel.available_memory() or 0) > 1_000_000


def test_workers_never_see_ctrl_c(tmp_path: Path) -> None:
    """Not even the first ones of a process, with which multiprocessing starts a helper that lets interrupts through."""
    (tmp_path / "work.py").write_text("""
import multiprocessing
from pathlib import Path
from time import sleep
from echo_synth.parallel import children_without_interrupts
if __name__ == "__main__":
    children = [multiprocessing.get_context("spawn").Process(target=sleep, args=(60,)) for _ in range(2)]
    with children_without_interrupts():
        for child in children:
            child.start()
    for child in children:
        status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        print(next(line.split()[1] for line in status if line.startswith("SigBlk")))
        child.kill()
""")
    said = subprocess.run(
        [sys.executable, str(tmp_path / "work.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(said) == 2
    assert all(int(blocked, 16) & (1 << (signal.SIGINT - 1)) for blocked in said)


def _threads_of_torch(**environment: str) -> int:
    """Of `echosynth doctor`, in a process with that environment on top of one that says nothing of threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    clean = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("SLURM_")}
    words = [sys.executable, "-m", "cli.main", "doctor"]
    run = subprocess.run(words, env=clean | environment, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) of \d+ cores", run.stdout)
    assert found, run.stdout + run.stderr
    return int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(parallel.available_cores() < 2, reason="needs two cores")
def test_commands_in_a_slurm_job_have_as_many_threads_as_the_job_has_cores() -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    assert _threads_of_torch(**job) == 1
    assert _threads_of_torch(**job, OMP_NUM_THREADS="2") == 2  # what somebody has set stays
    assert _threads_of_torch() >= 2
