"""What work will take on this machine, from a moment's measurement: an estimate, said to be one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from echo_synth.progress import format_seconds

# Image, label and picture of a synthetic image on disk: noise-dataset's, which compress worst (docs/RESULTS.md).
IMAGE_BYTES = 66_000
LONG_SECONDS = 3600.0  # work beyond this is announced before it starts


@dataclass(frozen=True)
class Estimate:
    """Seconds of work, bytes of disk that it leaves, bytes of memory (of the device) that it needs."""

    seconds: float
    disk_bytes: float
    memory_bytes: float

    def __str__(self) -> str:
        disk, memory = format_bytes(self.disk_bytes), format_bytes(self.memory_bytes)
        return f"about {format_seconds(self.seconds)}, {disk} of disk, {memory} of memory (estimated from a short measurement)"

    @property
    def is_long(self) -> bool:
        return self.seconds > LONG_SECONDS


def format_bytes(size: float) -> str:
    """'120 MiB', '3.4 GiB'."""
    mebibytes = size / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def measured_seconds(work: Callable[[], object], wait: Callable[[], None] = lambda: None) -> float:
    """Seconds that `work` takes the second time: the first one also pays for starting up.

    Args:
        wait: until an accelerator has done what it was given.
    """
    work()
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
