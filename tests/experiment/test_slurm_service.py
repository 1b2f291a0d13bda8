"""A sweep on a real Slurm, on request: ECHOSYNTH_SLURM=1, see docs/slurm-test.md."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.experiment.slurm_service import Service, missing, slurm_service

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("ECHOSYNTH_SLURM") != "1", reason="ECHOSYNTH_SLURM is not 1"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def service() -> Iterator[Service]:
    if missing():
        pytest.fail(f"{', '.join(missing())} missing; on Debian: apt-get install slurm-wlm munge")
    with slurm_service() as running:
        yield running


def _sweep(service: Service, home: Path, out: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["sweep", "smoke", "--cluster", "slurm", "--hours", "1", "--cpus", "1", "--at-once", "1", "--out", str(out)]
    words += more
    environment = service.environment | {"ECHOSYNTH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)  # jobs keep to their core by themselves
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words], env=environment, stdout=output, stderr=output
        )


def _until(holds: Callable[[], object], sweep: subprocess.Popen[bytes], log: Path, seconds: float = 1800) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert sweep.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.5)


def test_a_sweep_survives_a_requeue_a_killed_job_and_a_killed_controller(
    service: Service, own_home: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "sweep", tmp_path / "log.txt"
    log.touch()
    sweep = _sweep(service, own_home, out, log)
    try:
        # What announces the time limit: the job saves, and is queued again by itself.
        logs = "work/segmenter-*/log.txt"
        _until(lambda: any("planning" in f.read_text() for f in out.glob(logs)) and service.running(), sweep, log)
        first = service.running()[0]
        service.ask("scancel", "--signal=USR2", first)
        _until(lambda: service.running() and first not in service.running(), sweep, log)
        requeued = "\n".join(f.read_text() for f in out.glob(f"jobs/{first}_*_log.*"))
        assert "Requeued job" in requeued
        # A job that somebody cancels while it computes.
        killed = service.running()[0]
        service.ask("scancel", killed)
        _until(lambda: f"job {killed}:" in log.read_text(), sweep, log)
        assert f"job {killed}: it was cancelled" in log.read_text()
        # A controller that dies while jobs compute, and comes back.
        _until(service.running, sweep, log)
        service.kill("slurmctld")
        _until(lambda: "does not answer" in log.read_text(), sweep, log)
        service.start_controller()
        _until(lambda: "answers again" in log.read_text(), sweep, log)
        assert sweep.wait(3600) == 1
    finally:
        sweep.kill()
    told = log.read_text()
    assert "1 of 5 cells failed" in told, told[-3000:]
    table = pd.read_csv(out / "results.csv").set_index("cell")["state"]
    assert sorted(table == "done") == [False, True, True, True, True], told[-3000:]
    before = {f: f.stat().st_mtime_ns for f in out.glob("work/*/done.json")}
    again = _sweep(service, own_home, out, log)
    assert again.wait(3600) == 0, log.read_text()[-3000:]
    assert (pd.read_csv(out / "results.csv")["state"] == "done").all()
    assert before.items() <= {f: f.stat().st_mtime_ns for f in out.glob("work/*/done.json")}.items()


def test_a_job_computes_on_when_the_daemon_of_its_node_dies(service: Service, own_home: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "sweep", tmp_path / "log.txt"
    log.touch()
    sweep = _sweep(service, own_home, out, log, "--only", "noise")
    try:
        _until(lambda: any(out.glob("work/segmenter-*/log.txt")) and service.running(), sweep, log)
        job = service.running()
        service.kill("slurmd")
        time.sleep(20)  # without a daemon
        service.start("slurmd", "-D")
        assert sweep.wait(3600) == 0, log.read_text()[-3000:]
    finally:
        sweep.kill()
    table = pd.read_csv(out / "results.csv")
    assert table.loc[table["cell"].str.startswith("noise"), "state"].tolist() == ["done"]
    submitted = {f.name.partition("_")[0] for f in out.glob("jobs/*_log.out")}
    assert submitted == {job[0].partition("_")[0]}  # no second job did its work again
