"""Processes for work that holds the GIL. Spawned, so that no thread or lock is inherited half-held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def available_cores() -> int:
    """Cores this process may use: affinity where the system tells it, not the machine's count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)


@contextmanager
def _children_with_one_thread() -> Iterator[None]:
    """One process a core, so one thread a process: more only collide. Read by libraries when they load."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def parallel_map(function: Callable[[A], R], items: Sequence[A], workers: int | None = None) -> Iterator[R]:
    """`function` over `items` in order, in `workers` processes (default: all cores).

    The first exception cancels what has not started and is raised here.
    """
    workers = min(workers or available_cores(), max(1, len(items)))
    if workers == 1 or len(items) < 8:
        yield from map(function, items)
        return
    spawn = get_context("spawn")
    with _children_with_one_thread(), ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        try:
            yield from pool.map(function, items, chunksize=max(1, min(16, len(items) // (4 * workers))))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # nothing may write after the caller cleans up
            raise
