"""Progress on work over two seconds: a bar on a terminal, plain lines elsewhere. Shown from 0 on, before the first unit is done."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
_shown: WeakSet[Meter] = WeakSet()
_QUIET_SECONDS = 2.0
_PLAIN_SECONDS = 20.0


def counted(number: int, what: str) -> str:
    """'1 patient', '4 patients'."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """'42 s', '3 min 05 s', '2 h 07 min', '3 days 4 h'; what is below zero counts as 0 s."""
    if not math.isfinite(seconds):
        return "unknown time"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def track(items: Iterable[T], total: int, label: str, unit: str = "") -> Iterator[T]:
    """Yield `items` and show how far through `total` they are, with rate and time left."""
    meter = Meter(total, label, unit)
    try:
        for item in items:
            yield item
            meter.update()
    finally:
        meter.close()


def close_all() -> None:
    """Stop every bar, so that what is printed next stands below them: work that failed may not have come to close its own."""
    for meter in list(_shown):
        meter.close()


class Meter:
    """Progress that is advanced by hand: `update(n, note)` after n more units are done, `close` at the end.

    Args:
        total: units of the whole work; what is done beyond it is shown as `total`.
        label: what is being done.
        unit: what is counted, in the plural.
        done: units that were done before.
        quiet: show nothing.
        stream: where to show it; None: standard error.
    """

    def __init__(
        self, total: int, label: str, unit: str = "", done: int = 0, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = self._start_done = done
        self._start = time.monotonic()
        self._last_line: float | None = None
        self.quiet = quiet
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._timer: threading.Timer | None = None
        if quiet:
            return
        _shown.add(self)
        if self._stream.isatty():
            # A stream of our own stands apart from standard output; rich must not put its own in that one's place.
            self._bar = _start_bar(self._stream, redirect=stream is None)
            self._task = self._bar.add_task(label, total=total, completed=self._done_of_total(), note="", left="")
        else:
            self._timer = threading.Timer(_QUIET_SECONDS, self._first_line)
            self._timer.daemon = True
            self._timer.start()

    def update(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done; `note` is shown behind them."""
        self.done += n
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done_of_total(), note=note, left=self._left(now))
        elif not self.quiet and self._last_line is not None and now - self._last_line > _PLAIN_SECONDS:
            self._line(now, note)

    def close(self) -> None:
        """Stop showing; a bar of less than two seconds disappears."""
        if self._timer is not None:
            self._timer.cancel()
        if self._bar is not None:
            self._bar.live.transient = time.monotonic() - self._start < _QUIET_SECONDS
            self._bar.stop()
            self._bar = None
        self.quiet = True
        _shown.discard(self)

    def _done_of_total(self) -> int:
        return min(self.done, self.total)

    def _first_line(self) -> None:
        with suppress(ValueError, OSError):  # a stream that was closed meanwhile
            self._line(time.monotonic(), "")

    def _line(self, now: float, note: str) -> None:
        self._last_line = now
        unit = f" {self.unit}" if self.unit else ""
        parts = [f"{self.label}: {self._done_of_total()}/{self.total}{unit}", self._left(now)]
        print(" ".join([", ".join(p for p in parts if p), note]).rstrip(), file=self._stream, flush=True)

    def _left(self, now: float) -> str:
        """Rate and time left; nothing before the first unit is done."""
        new, seconds = self.done - self._start_done, now - self._start
        if new <= 0 or seconds <= 0:
            return ""
        pace = f"{new / seconds:.1f}/s" if new >= seconds else f"{format_each(seconds / new)} each"
        return f"{pace}, {format_seconds((self.total - self.done) * seconds / new)} left"


def format_each(seconds: float) -> str:
    """'1.4 s' below ten seconds, else as `format_seconds`."""
    return f"{seconds:.1f} s" if seconds < 10 else format_seconds(seconds)


def _start_bar(stream: TextIO, redirect: bool) -> Progress:
    """A bar that redraws itself: the time that has passed moves while a long unit is under way."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} {task.fields[note]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    )
    bar.start()
    return bar


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Everything that this process and the processes it starts print goes to `log` (appended) until the block ends.

    Yields:
        the standard error of before, for what is for the person watching.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        _copy_of(sys.stderr) as watching,
        open(log, "a", encoding="utf-8", errors="replace") as output,
        _descriptors_to(output),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        yield watching


@contextmanager
def _copy_of(stream: TextIO) -> Iterator[TextIO]:
    """`stream` through a descriptor of its own, which goes on where the present one is pointed elsewhere."""
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):  # no file behind it, e.g. a notebook's
        yield stream
        return
    stream.flush()
    with open(descriptor, "w", encoding=stream.encoding, errors="replace", buffering=1) as copy:
        yield copy


@contextmanager
def _descriptors_to(output: TextIO) -> Iterator[None]:
    """Point descriptors 1 and 2, which libraries and child processes write to, at `output`."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    before = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in before:
            os.dup2(output.fileno(), number)
        yield
    finally:
        output.flush()
        for number, kept in before.items():
            os.dup2(kept, number)
            os.close(kept)
