"""One process at a time in a folder: living holders are named, dead ones replaced, by one of many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from echo_synth import claims
from echo_synth.claims import claim, holder_of, lock_beside, lock_in
from echo_synth.errors import HeldError

ROOT = Path(__file__).parents[1]
HOLD = "import sys, time; from pathlib import Path; from echo_synth.claims import claim\nwith claim(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
IN_TURN = """import sys, time
from pathlib import Path
from echo_synth.claims import claim
with claim(Path(sys.argv[1]), wait=60):
    start = time.monotonic()
    time.sleep(0.2)
    print(start, time.monotonic())
"""


def _start(code: str, lock: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(lock)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _holding(lock: Path) -> subprocess.Popen[str]:
    process = _start(HOLD, lock)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _as_if_elsewhere(lock: Path) -> None:
    """The lock file as a process of another container would have written it."""
    content = json.loads(lock.read_text())
    written = lock.stat()
    lock.write_text(json.dumps(content | {"processes": "pid:[1]", "host": "elsewhere"}))
    os.utime(lock, ns=(written.st_atime_ns, written.st_mtime_ns))


def test_a_living_holder_is_named_and_its_lock_goes_with_it(tmp_path: Path) -> None:
    lock = lock_in(tmp_path / "run")
    process = _holding(lock)
    with pytest.raises(HeldError, match=f"run: in use by process {process.pid} on .* since"), claim(lock):
        pass
    assert str(process.pid) in str(holder_of(lock))
    process.terminate()
    process.wait()
    assert holder_of(lock) is None
    with claim(lock):
        assert holder_of(lock) is not None
    assert not list((tmp_path / "run").iterdir())


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path) -> None:
    lock = lock_beside(tmp_path / "maps")
    process = _holding(lock)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    with claim(lock):
        pass
    assert time.monotonic() - start < 2
    assert not list(tmp_path.iterdir())


def test_a_stopped_holder_still_holds(tmp_path: Path) -> None:
    process = _holding(lock_in(tmp_path))
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(HeldError), claim(lock_in(tmp_path)):
        pass
    process.kill()
    process.wait()


@pytest.mark.slow
def test_of_another_machine_the_heartbeat_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 4.5)
    monkeypatch.setattr(claims, "_is_locked", lambda _: False)  # as on a network file system
    lock = lock_in(tmp_path)
    process = _holding(lock)
    _as_if_elsewhere(lock)
    process.send_signal(signal.SIGSTOP)  # nobody touches the lock, and its process number is not to be looked at
    with claim(lock) as held:
        held.check()
    process.kill()
    process.wait()
    living = _holding(lock)
    _as_if_elsewhere(lock)
    with pytest.raises(HeldError, match="elsewhere"), claim(lock):
        pass
    living.kill()
    living.wait()


def test_a_stopped_holder_in_another_container_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    lock = lock_in(tmp_path)
    process = _holding(lock)
    _as_if_elsewhere(lock)
    process.send_signal(signal.SIGSTOP)
    os.utime(lock, (0, 0))
    with pytest.raises(HeldError, match="elsewhere"), claim(lock):
        pass
    process.kill()
    process.wait()
    os.utime(lock, (0, 0))
    with claim(lock) as held:  # dead: its flock went with it
        held.check()


def test_who_lost_its_lock_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.05)
    with claim(lock_in(tmp_path)) as held:
        content = json.loads(lock_in(tmp_path).read_text())
        lock_in(tmp_path).write_text(json.dumps(content | {"token": "another"}))
        time.sleep(0.5)
        with pytest.raises(HeldError, match="took over"):
            held.check()
    assert lock_in(tmp_path).is_file()  # it is the other's


@pytest.mark.slow
def test_of_many_that_find_a_dead_holder_one_at_a_time_gets_it(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    process = _holding(lock)
    process.kill()
    process.wait()
    started = [_start(IN_TURN, lock) for _ in range(5)]
    times = sorted(tuple(map(float, p.communicate()[0].split())) for p in started)
    assert len(times) == 5
    assert all(later[0] >= earlier[1] for earlier, later in pairwise(times))
    assert not list(tmp_path.iterdir())


def _seen_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of another machine that no flock shows, and that nobody touches."""
    monkeypatch.setattr(claims, "_is_locked", lambda _: False)
    lock = lock_in(tmp_path)
    lock.write_text(json.dumps({"token": "t", "process": 1, "boot": "b", "processes": "pid:[1]"}))
    return lock


def test_clocks_that_differ_make_nobody_dead_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lustre: the lock has the time of its holder's clock, five minutes behind ours; only watching can tell."""
    lock = _seen_elsewhere(tmp_path, monkeypatch)
    os.utime(lock, (time.time() - 300, time.time() - 300))
    watched: list[int] = []
    monkeypatch.setattr(claims, "_touched", lambda path: (watched.append(1), path.stat().st_mtime_ns + len(watched))[1])
    assert not claims._stays_untouched(lock)
    assert len(watched) >= 2


def test_a_file_server_that_stood_still_makes_nobody_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first touch after a pause comes when the holder gets to it, which is not before ours comes through."""
    lock = _seen_elsewhere(tmp_path, monkeypatch)
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(claims, "_seconds_untouched", lambda _: 0.0)
    seen = {"looks": 0}

    def touched(_: Path) -> int:
        seen["looks"] += 1
        if seen["looks"] == 20:
            clock[0] += 100  # blocked in the look itself
        return 1 if clock[0] < 102 + claims.HEARTBEAT_SECONDS else 2

    monkeypatch.setattr(claims, "_touched", touched)
    assert not claims._stays_untouched(lock)
    monkeypatch.setattr(claims, "_touched", lambda _: 1)
    assert claims._stays_untouched(lock)


def test_the_time_of_a_lock_is_read_after_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS promises fresh attributes after an open, not for a stat."""
    lock = lock_in(tmp_path)
    lock.touch()
    opened: list[Path] = []
    original = os.open
    with monkeypatch.context() as patch:  # ends before pytest removes the folder, which opens it
        patch.setattr(claims.os, "open", lambda path, *rest: (opened.append(path), original(path, *rest))[1])
        assert claims._touched(lock) == lock.stat().st_mtime_ns
        assert opened == [lock]
        assert claims._touched(tmp_path / "absent") is None


def test_a_lock_that_may_not_be_read_has_an_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a colleague whose files are private: its job was killed long ago."""
    lock, opened = tmp_path / "lock", os.open
    lock.touch()
    os.utime(lock, (time.time() - 3e5, time.time() - 3e5))

    def refuse(path: object, *given: object, **more: object) -> int:
        if Path(str(path)) == lock:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    assert claims._seconds_untouched(lock) > 2e5


def test_a_pipe_in_the_place_of_a_lock_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one to read it would wait without end for somebody who writes."""
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    os.mkfifo(lock_in(tmp_path))
    assert holder_of(lock_in(tmp_path)) is None
    with claim(lock_in(tmp_path)):
        assert lock_in(tmp_path).is_file()
