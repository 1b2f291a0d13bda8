"""Processes for work that holds the GIL. Spawned, so that no thread or lock is inherited half-held."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from echo_synth.errors import DataError

A = TypeVar("A")
R = TypeVar("R")
_FEWEST_ITEMS = 8  # fewer are done before processes have started
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")  # the second is of all tasks of the job
_CONTAINER = Path("/sys/fs/cgroup")  # as a process inside sees its own


def available_cores() -> int:
    """Cores this process may use: affinity where the system tells it, not the machine's count; in a Slurm job no more than it was given.

    Where Slurm does not bind its jobs to cores, each sees all of the node's; two jobs with a thread a core then wait for
    each other at every operation (a segmenter takes four times as long).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = [int(n) for name in _SLURM if (n := os.environ.get(name, "")).isdecimal()]
    return max(1, min([cores, *given]))


def keep_to_slurm_cores() -> None:
    """In a Slurm job, libraries that load later compute with as many threads as it has cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ and any(name in os.environ for name in _SLURM):
        for name in _THREADS:
            os.environ.setdefault(name, str(available_cores()))


def allowed_cores() -> int:
    """Cores that this process may fill: `available_cores`, or fewer where OMP_NUM_THREADS or a container's share says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    quota, _, period = _of_container("cpu.max").partition(" ")
    share = [math.ceil(int(quota) / int(period))] if quota.isdecimal() and period.isdecimal() and int(period) else []
    limits = [available_cores(), *share, *([int(asked)] if asked.isdecimal() else [])]
    return max(1, min(limits))


def available_memory() -> int | None:
    """Bytes that can be had, None where the system does not say; never more than a container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    limit = _of_container("memory.max")
    return min(free, int(limit)) if limit.isdecimal() else free


def _of_container(name: str) -> str:
    """A limit of the container (cgroup v2) that this process runs in; empty where there is none to be read."""
    try:
        return (_CONTAINER / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@contextmanager
def children_with_threads(number: int) -> Iterator[None]:
    """Processes started in the block compute with `number` threads each. Read by libraries when they load."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(number)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C, not even while they import: this one ends them. Ctrl-C waits for the block's end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which the first process would start else, and that lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a worker: end when the process that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def end_with_writer(descriptor: int) -> None:
    """End this process when the last writer of a pipe is gone: who holds it started us, and died however it did."""
    threading.Thread(target=_exit_after, args=(descriptor,), daemon=True).start()


def parallel_map(function: Callable[[A], R], items: Sequence[A], workers: int | None = None) -> Iterator[R]:
    """`function` over `items` in order, in `workers` processes (default: all cores).

    The first exception cancels what has not started and is raised here; so is Ctrl-C, which ends
    the workers at once. After either nothing is written any more. Workers end with this process.

    Raises DataError when a worker was killed, often by the system for want of memory.
    """
    workers = min(workers or available_cores(), max(1, len(items)))
    if workers == 1 or len(items) < _FEWEST_ITEMS:
        yield from map(function, items)
        return
    chunk = max(1, min(16, len(items) // (4 * workers)))
    others = set(multiprocessing.active_children())
    # One process a core, so one thread a process: more only collide.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)
    processes: list[BaseProcess] = []
    try:
        with children_with_threads(1), children_without_interrupts():
            results = pool.map(function, items, chunksize=chunk)
            processes = [p for p in multiprocessing.active_children() if p not in others]
        yield from results
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, often by the system for want of memory; free some, or use fewer workers (option --workers, where the command has it)"
        ) from None
    except (KeyboardInterrupt, GeneratorExit):
        pool.shutdown(wait=False, cancel_futures=True)  # first: a pool that breaks complains of what is cancelled
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
