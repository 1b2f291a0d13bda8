"""Who works on a folder: one process at a time, also across containers and network file systems.

A claim is a lock file that its holder makes with O_EXCL, which is atomic on network file systems
too, and touches every few seconds. A holder that was killed is recognised by its process, where
that can be seen (same machine, same process numbers), and otherwise by a lock file that nobody
touches any more: process numbers of another container or machine say nothing. One that stands still
without being dead, in another container of the same machine, still has its flock on the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from echo_synth.errors import HeldError
from echo_synth.files import disk_error, open_file

LOCK = ".echosynth-lock"
HEARTBEAT_SECONDS = 3.0
STALE_SECONDS = 30.0
_POLL_SECONDS = 0.2
_MOST_BYTES = 1 << 16  # of a lock file
_CLOCKS_APART = 600.0  # Lustre writes times by the clock of the machine that touches, and machines differ
_PAUSE_SECONDS = 2.0  # a look that took longer: the file server stood still, and no holder could touch anything


def lock_in(folder: Path) -> Path:
    """Lock file of a folder that is filled in place (a run, a dataset that is being drawn)."""
    return folder / LOCK


def lock_beside(path: Path) -> Path:
    """Lock file of what appears under its name at once (a folder that is replaced, a file)."""
    return path.parent / f"{LOCK}-{path.name}"


class Claim:
    """A lock file that this process holds, and keeps alive until `release`."""

    def __init__(self, lock: Path, token: str, descriptor: int) -> None:
        self.lock, self.token, self._descriptor = lock, token, descriptor
        self._over = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)
        self._thread.start()

    def _keep_alive(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            self._lost = self._lost or _holder(self.lock).get("token") != self.token
            with suppress(OSError):  # tried again at the next beat
                if not self._lost:
                    os.utime(self.lock)

    def check(self) -> None:
        """Raise HeldError when another process took over, because this one stood still (a stopped container)."""
        if self._lost:
            raise HeldError(
                f"{self.lock.parent}: another process took over while this one stood still; it is left to that one"
            )

    def release(self) -> None:
        """Let go; the lock file disappears."""
        self._over.set()
        self._thread.join()
        if _holder(self.lock).get("token") == self.token:
            self.lock.unlink(missing_ok=True)
        os.close(self._descriptor)


@contextmanager
def claim(lock: Path, wait: float = 0.0, what: Path | None = None) -> Iterator[Claim]:
    """Hold `lock` (see `lock_in`, `lock_beside`) until the block ends.

    Args:
        lock: lock file; its folder is made if missing.
        wait: seconds to wait for a living holder, for work that is short.
        what: named in the error; default: the folder or file that the lock belongs to.

    Raises:
        HeldError: another process holds it; says which, and since when.
        DataError: the folder cannot be written.
    """
    token = uuid4().hex
    new = not lock.parent.exists()
    descriptor = _acquire(lock, token, time.monotonic() + wait, what or _belongs_to(lock))
    held = Claim(lock, token, descriptor)
    try:
        yield held
    finally:
        held.release()
        if new:
            with suppress(OSError):  # what was put into the folder meanwhile stays
                lock.parent.rmdir()


def _acquire(lock: Path, token: str, until: float, what: Path) -> int:
    """Descriptor of the lock file, which is this process's now."""
    while (descriptor := _take(lock, token)) is None:
        holder = _holder(lock)
        if not lock.exists():  # let go just now
            continue
        if _is_dead(lock, holder):
            taken = _take_over(lock, token, holder)
            if taken is not None:
                return taken
        elif time.monotonic() >= until:
            raise HeldError(
                f"{what}: in use by {_described(_holder(lock))}; wait until it has ended, or choose another folder"
            )
        time.sleep(_POLL_SECONDS)
    return descriptor


def holder_of(lock: Path) -> str | None:
    """Who holds `lock` ('process 12 on HOST since TIME (COMMAND)'), or None where nobody living does."""
    holder = _holder(lock)
    return None if not lock.exists() or _is_dead(lock, holder) else _described(holder)


def _take(lock: Path, token: str) -> int | None:
    """Descriptor of the lock file, made and locked by this process; None where there is one already."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    except OSError as e:
        raise disk_error(e, lock.parent) from e
    try:
        with suppress(OSError):  # a file system without locks; there the time of the file decides
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps({"token": token, **_this_process()}).encode())
    except OSError as e:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        raise disk_error(e, lock.parent) from e
    return descriptor


def _take_over(lock: Path, token: str, holder: dict[str, Any]) -> int | None:
    """Replace the lock of a dead holder. Of many that try, one gets it: who makes the marker, and finds that holder still."""
    marker = lock.with_name(f"{lock.name}-takeover")
    descriptor = _take(marker, token)
    if descriptor is None:
        if _seconds_untouched(marker) > STALE_SECONDS:
            marker.unlink(missing_ok=True)
        return None
    replaced = False
    try:
        if _holder(lock).get("token") == holder.get("token"):
            os.replace(marker, lock)
            replaced = True
    except FileNotFoundError:
        pass
    finally:
        if _holder(marker).get("token") == token:
            marker.unlink(missing_ok=True)
        if not replaced:
            os.close(descriptor)
    return descriptor if replaced else None


def _is_dead(lock: Path, holder: dict[str, Any]) -> bool:
    here = _this_process()
    if here["processes"] and all(holder.get(k) == here[k] for k in ("boot", "processes")):
        return _start_of(int(holder["process"])) != holder.get("started")
    return not _is_locked(lock) and _stays_untouched(lock)


def _is_locked(lock: Path) -> bool:
    """Whether a living process has its flock on the file; False also where that cannot be seen (another machine)."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _stays_untouched(lock: Path) -> bool:
    """Whether nobody touches `lock` for STALE_SECONDS; seen at once where its time says so beyond doubt, else watched."""
    if _seconds_untouched(lock) > 4 * STALE_SECONDS + _CLOCKS_APART:
        return True
    first = _touched(lock)
    if first is None:
        return False
    looked = time.monotonic()
    end = looked + STALE_SECONDS
    while looked < end:
        time.sleep(_POLL_SECONDS)
        if _touched(lock) != first:
            return False
        before, looked = looked, time.monotonic()
        if looked - before > _POLL_SECONDS + _PAUSE_SECONDS:
            end = looked + STALE_SECONDS
    return True


def _touched(lock: Path) -> int | None:
    """Its time, asked of the file server: opening a file makes an NFS client look again, a mere stat may be answered from memory."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:  # of another user, say; its age can be asked for all the same
        try:
            return os.stat(lock).st_mtime_ns
        except OSError:
            return None
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _seconds_untouched(lock: Path) -> float:
    """Age of `lock` by the clock of its own file system, which is not always this machine's."""
    touched, probe = _touched(lock), lock.with_name(f"{lock.name}-{uuid4().hex[:8]}")
    try:
        probe.touch()
        now = _touched(probe)
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
    return 0.0 if now is None or touched is None else (now - touched) / 1e9


def _holder(lock: Path) -> dict[str, Any]:
    """What the lock file says of its holder; empty where it is being written, damaged or gone."""
    try:
        with open_file(lock) as file:
            content = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("process"), int) else {}


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _read(lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()),
        "processes": _process_numbers(),
        "process": os.getpid(),
        "started": _start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]]),
    }


def _process_numbers() -> str:
    """Name of the set of process numbers (PID namespace) of this process; empty where /proc does not show it."""
    mine = _read(lambda: os.readlink("/proc/self")) == str(os.getpid())
    return _read(lambda: os.readlink("/proc/self/ns/pid")) if mine else ""


def _start_of(process: int) -> str | None:
    """Start time of a process of this machine in clock ticks, None where there is none (or it is a zombie)."""
    fields = _read(lambda: Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace"))
    after_name = fields.rpartition(")")[2].split() if fields else []
    return after_name[19] if len(after_name) > 19 and after_name[0] not in "ZX" else None


def _read(source: Callable[[], str]) -> str:
    try:
        return source()
    except OSError:
        return ""


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['process']} on {holder.get('host')} since {holder.get('since')} ({holder.get('command')})"


def _belongs_to(lock: Path) -> Path:
    return lock.parent if lock.name == LOCK else lock.parent / lock.name.removeprefix(f"{LOCK}-")
