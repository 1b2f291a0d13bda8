"""Commands in a pseudo-terminal, as a person runs them."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ended:
    """Exit status, and everything that stood on the terminal: `screen` without colours and movements, `raw` with them."""

    status: int
    screen: str
    raw: str


def in_terminal(
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    interrupt_when: Callable[[str], bool] | None = None,
    seconds: float = 600,
) -> Ended:
    """Run `words` with a pseudo-terminal as input, output and error.

    Args:
        environment: on top of this process's own.
        folder: where to run.
        interrupt_when: press Ctrl-C once this holds for what stood on the screen so far.
        seconds: after them it is killed.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "160", **(environment or {})},
        start_new_session=True,
        preexec_fn=_as_from_a_shell,
    )
    os.close(theirs)
    try:
        raw = _read(ours, process, interrupt_when, time.monotonic() + seconds)
    finally:
        os.close(ours)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.wait(), _CONTROL.sub("", raw), raw)


def _as_from_a_shell() -> None:
    """Listen to Ctrl-C also where the tests themselves run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(
    ours: int, process: subprocess.Popen[bytes], interrupt_when: Callable[[str], bool] | None, deadline: float
) -> str:
    raw = ""
    while time.monotonic() < deadline:
        readable, _, _ = select.select([ours], [], [], 0.1)
        if readable:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            raw += piece.decode("utf-8", "replace")
        elif process.poll() is not None:
            break
        if interrupt_when is not None and interrupt_when(_CONTROL.sub("", raw)):
            os.killpg(process.pid, signal.SIGINT)
            interrupt_when = None
    return raw


def echosynth(*words: str) -> list[str]:
    """The command line of `echosynth WORDS` in this checkout."""
    return [sys.executable, "-m", "cli.main", *words]
