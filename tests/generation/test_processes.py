"""Several processes that one command leads: how many, the same bytes, kills of each and of all, Ctrl-C, errors."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.spawn
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray

from cli import generate_commands
from cli.generate_commands import generate
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError, HeldError
from echo_synth.estimate import Estimate
from echo_synth.generation.noise import NoiseTextures
from echo_synth.generation.processes import Division, divide, draw_together
from echo_synth.generation.request import plan_from
from echo_synth.generation.shards import WHOLE, Shard, hold_shard
from echo_synth.generation.targets import TargetRequest, make_target
from echo_synth.generation.task import Task
from echo_synth.generation.timing import Attempt, attempts, record_attempt, seconds_per_image
from echo_synth.verification.verify import verify
from tests.cli.terminal import ROOT, echosynth, in_terminal
from tests.warm import Warm

MAPS = specs.root() / "bundled" / "maps"
TWO = Division(2, 1)


class Slow(NoiseTextures):
    """Takes its time, so that a test can come in between."""

    def draw(self, *given: Any) -> NDArray[np.uint8]:
        time.sleep(0.1)
        return super().draw(*given)


class Broken(NoiseTextures):
    """Fails in whoever comes to the second half."""

    def draw(self, *given: Any) -> NDArray[np.uint8]:
        _tissues, _frames, _seed, indices, _on_evaluation = given
        if max(indices) >= 20:
            raise DataError("maps: damaged")
        return super().draw(*given)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def loaded(warm: Warm) -> Iterator[None]:
    """Processes of `multiprocessing` begin with the libraries loaded."""
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(warm.python)
    yield
    multiprocessing.set_executable(os.fsdecode(before))


def task_of(source: Callable[[], NoiseTextures] = NoiseTextures, count: int = 40, dataset_id: int = 601) -> Task:
    plan = plan_from(MAPS, count, 0)
    request = TargetRequest(dataset_id, "Noise", {"model": "noise"} | plan.identity())
    target = make_target(request, lambda _: {})
    return Task(source, plan, 4, request, target, {"model": "noise", "nfe": 0}, {"made_by": "test"})


def draw_slowly(dataset_id: int) -> None:
    """For a process of its own, which a test kills; of a warm one, so are those that it starts."""
    multiprocessing.set_executable(sys.executable)
    draw_together(task_of(Slow, dataset_id=dataset_id), WHOLE, TWO)


def _digest(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "settings.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _images(raw: Path) -> dict[str, str]:
    return _digest(raw / "imagesTr") | _digest(raw / "labelsTr")


def _wait_for(holds: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


@pytest.mark.parametrize(
    ("asked", "cores", "chunks", "seconds", "each", "free", "expected"),
    [
        (None, 2, 100, 60, 0, None, (2, 1)),
        (None, 2, 100, 19, 0, None, (1, 2)),  # sooner done than a second process has started
        (None, 16, 3, 600, 0, None, (3, 5)),  # of twenty images in batches of eight
        (None, 8, 100, 600, 1, 4, (3, 2)),  # memory: 0.8 of what is free
        (None, 8, 100, 600, 1, 0.5, (1, 8)),
        (None, 1, 100, 600, 0, None, (1, 1)),
        (4, 2, 100, 1, 1, 1, (4, 1)),  # whoever asks knows
        (4, 2, 0, 0, 0, None, (1, 2)),  # nothing is left to draw
        (1, 8, 100, 600, 0, None, (1, 8)),
    ],
)
def test_as_many_processes_as_pay(
    asked: int | None,
    cores: int,
    chunks: int,
    seconds: float,
    each: float,
    free: float | None,
    expected: tuple[int, int],
) -> None:
    assert divide(asked, cores, chunks, seconds, each, free) == Division(*expected)


@pytest.mark.parametrize(("shard", "processes"), [(WHOLE, 1), (WHOLE, 3), (Shard(1, 2), 2), (Shard(2, 5), 4)])
def test_the_parts_of_a_shard_are_what_it_was(shard: Shard, processes: int) -> None:
    parts = shard.split(processes)
    dealt = sorted(k for part in parts for k in range(200) if k % part.count == part.index)
    assert dealt == [k for k in range(200) if k % shard.count == shard.index]
    assert len(parts) == processes == len(set(parts))


def test_a_gpu_is_drawn_on_by_one_process() -> None:
    with pytest.raises(typer.BadParameter, match="on a GPU one process draws") as raised:
        generate_commands._asked(2, WHOLE, "cuda:1")
    assert raised.value.param_hint == "--processes"


def test_seconds_an_image_are_those_of_all_processes(tmp_path: Path) -> None:
    for shard in ("0/2", "1/2"):
        record_attempt(tmp_path / "Dataset601_X", Attempt(10, 40.0, "cpu", "fp32", shard, processes=2))
    assert seconds_per_image(tmp_path / "Dataset601_X") == 2.0


@pytest.mark.slow
def test_processes_leave_what_one_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of both folders, card, manifest and sums included; two of one thread against one of two."""
    found = []
    for processes in (1, 2):
        home = tmp_path / str(processes)
        monkeypatch.setenv("ECHOSYNTH_HOME", str(home))
        words = ["generate", "--model", "edm-l64", "--nfe", "2", "--count", "20", "--processes", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(echosynth(*words), env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ("drawing in 2 processes with one thread each" in ended.stderr) == (processes == 2)
        assert "drew 20 images" in ended.stdout
        raw = nnunet_raw.find(601).path
        assert [(a.shard, a.processes, a.threads) for a in sorted(attempts(raw), key=lambda a: a.shard)] == (
            [("0/1", 1, 2)] if processes == 1 else [("0/2", 2, 1), ("1/2", 2, 1)]
        )
        assert verify(raw).whole
        assert verify(raw).recorded
        found.append((_digest(raw), _digest(home / "datasets" / "classification" / raw.name)))
    assert len(found[0][0]) > 40
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_killed_process_is_told_and_its_work_goes_on(home: Path, loaded: None) -> None:
    task = task_of(Slow)
    killed = list[int]()

    def kill_one() -> None:
        _wait_for(lambda: len(list((task.target.raw / "imagesTr").glob("*.gz"))) >= 4)
        process = max(multiprocessing.active_children(), key=lambda p: p.pid or 0)
        killed.append(process.pid or 0)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(DataError, match=r"process [12] of 2 \(number \d+\) was killed \(signal 9\)") as raised:
        draw_together(task, WHOLE, TWO)
    killer.join()
    assert f"number {killed[0]}" in str(raised.value)
    assert "the same command continues" in str(raised.value)
    assert not multiprocessing.active_children()
    kept = _images(task.target.raw)
    assert 4 <= len(kept) / 2 < 40
    assert draw_together(task_of(), WHOLE, Division(3, 1)).complete  # another number of them
    assert task_of(dataset_id=602).draw(WHOLE).complete
    whole = _images(task_of(dataset_id=602).target.raw)
    assert _images(task.target.raw) == whole
    assert kept.items() <= whole.items()
    assert not [p for p in task.target.raw.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_processes_end_with_a_parent_that_is_killed(home: Path, warm: Warm, loaded: None, tmp_path: Path) -> None:
    code = "from tests.generation.test_processes import draw_slowly; draw_slowly(601)"
    with open(tmp_path / "output.txt", "wb") as output:
        parent = warm.start(["-c", code], {"PYTHONPATH": str(ROOT)}, output.fileno())
    images = home / "nnunet/raw/Dataset601_Noise/imagesTr"
    _wait_for(lambda: len(list(images.glob("*.gz"))) >= 4)
    children = [int(n) for n in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert len(children) >= 2
    _wait_for(lambda: not any(map(_alive, children)), 30)
    task = task_of()
    assert draw_together(task, WHOLE, TWO).complete
    task_of(dataset_id=602).draw(WHOLE)
    assert _images(task.target.raw) == _images(images.parents[1] / "Dataset602_Noise")


def _has_begun(screen: str) -> bool:
    return re.search(r" (8|16|24|32|40)/100 ", screen) is not None


def _alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.slow
def test_ctrl_c_ends_all_and_tells_how_to_go_on(home: Path) -> None:
    words = ("generate", "--model", "bmode", "--count", "100", "--dataset-id", "601", "--processes", "2")
    ended = in_terminal(echosynth(*words), interrupt_when=_has_begun)
    assert ended.status == 130, ended.screen[-2000:]
    assert "Traceback" not in ended.screen
    assert "drawing in 2 processes with one thread each" in ended.screen
    raw = nnunet_raw.find(601).path
    last = [line for line in ended.screen.splitlines() if line.strip()][-1]
    there = len(list((raw / "imagesTr").glob("*.gz")))
    assert there < 100
    assert f"interrupted; {raw}: {there} of 100 images are there; continue with: echosynth generate" in last
    assert "--processes 2" in last
    assert not [p for p in raw.iterdir() if p.name.startswith(".")]  # no lock, nothing half written
    assert sum(a.images for a in attempts(raw)) >= there


@pytest.mark.slow
def test_an_error_of_one_ends_all(home: Path, loaded: None) -> None:
    task = task_of(Broken)
    with pytest.raises(DataError, match="maps: damaged") as raised:
        draw_together(task, WHOLE, TWO)
    assert str(raised.value) == "maps: damaged"
    assert "in draw" in "".join(raised.value.__notes__)  # where it happened, for --debug
    assert not multiprocessing.active_children()


def test_two_commands_do_not_draw_one_dataset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", _no_process)
    task = task_of()
    for held in (Shard(1, 2), WHOLE, Shard(0, 3)):
        with hold_shard(task.target.raw, held), pytest.raises(HeldError, match="in use by process"):
            draw_together(task, WHOLE, TWO)


def _no_process(*_: object) -> Iterator[None]:
    raise AssertionError("no process was to be started")


@pytest.mark.slow
def test_a_dry_run_measures_all_at_once(home: Path, loaded: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        generate("edm-l64", 4, count=64, precision="fp32", processes=2, dry_run=True)
    told = capsys.readouterr().err
    assert "estimate: about" in told
    assert "in 2 processes with one thread each" in told
    assert not home.exists()


def test_side_by_side_the_slowest_counts_and_memory_adds_up() -> None:
    from echo_synth.generation.processes import _side_by_side

    assert _side_by_side([Estimate(3, 10, 5), Estimate(4, 20, 6)]) == Estimate(4, 30, 11)
