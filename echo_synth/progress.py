"""Progress on work over two seconds: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
_QUIET_SECONDS = 2.0
_PLAIN_SECONDS = 20.0


def format_seconds(seconds: float) -> str:
    """'42 s', '3 min 05 s', '2 h 07 min'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def track(items: Iterable[T], total: int, label: str, unit: str = "") -> Iterator[T]:
    """Yield `items` and show how far through `total` they are, with rate and time left."""
    meter = Meter(total, label, unit)
    try:
        for item in items:
            yield item
            meter.update()
    finally:
        meter.close()


class Meter:
    """Progress that is advanced by hand. `update(n, note)` after n more units are done."""

    def __init__(
        self, total: int, label: str, unit: str = "", done: int = 0, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = self._start_done = done
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None
        self.quiet = quiet
        self._stream = stream or sys.stderr

    def update(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if self.quiet or now - self._start < _QUIET_SECONDS:
            return
        if self._stream.isatty():
            self._draw(note)
        elif now - self._last_line > _PLAIN_SECONDS:
            self._last_line = now
            print(
                f"{self.label}: {self.done}/{self.total}{self._tail(now)} {note}".rstrip(),
                file=self._stream,
                flush=True,
            )

    def _tail(self, now: float) -> str:
        rate = (self.done - self._start_done) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        return f"{' ' + self.unit if self.unit else ''}, {rate:.1f}/s, {format_seconds(left)} left"

    def _draw(self, note: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(file=self._stream))
            self._task = self._bar.add_task(self.label, total=self.total, note="")
            self._bar.start()
        self._bar.update(self._task, completed=self.done, note=note)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
