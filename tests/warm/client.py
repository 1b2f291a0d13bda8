"""Asks the server for a process. Standard library alone: whoever starts it, from a shell too, waits for nothing."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Started:
    """A process of the server.

    Attributes:
        pid: its own number, for signals.
    """

    pid: int
    _connection: socket.socket
    _answers: TextIO
    _status: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        """Its exit status as `subprocess` has it, None while it runs."""
        ended = self._status or select.select([self._connection], [], [], 0)[0]
        return self.wait() if ended else None

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        if not self._status:
            self._status.append(int(self._answers.readline()))
        return self._status[0]


def ask(
    address: str, words: Sequence[str], folder: str, environment: Mapping[str, str], files: Mapping[int, int]
) -> Started:
    """`python WORDS`, where WORDS begin with -m MODULE, -c CODE or a file.

    Args:
        address: of the server's socket.
        folder: where to run.
        environment: all of it.
        files: open files that it gets, by the numbers that they have there.
    """
    request = {
        "words": list(words),
        "folder": folder,
        "environment": dict(environment),
        "files": list(files),
        "cores": sorted(os.sched_getaffinity(0)),
    }
    told = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    connection.sendall(len(told).to_bytes(4, "big"))
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files.values()))
    connection.sendmsg([told[:1]], [rights])
    connection.sendall(told[1:])
    answers = connection.makefile()
    return Started(int(answers.readline()), connection, answers)


def be_python(python: str, address: str) -> None:
    """Do as Python does with this process's command line: `-m MODULE`, `-c CODE` and files by the server, all else by Python itself."""
    words = sys.argv[1:]
    while words[:1] in (["-P"], ["-u"], ["-B"]):
        del words[0]
    if not words or (words[0].startswith("-") and words[0] not in ("-m", "-c")):
        os.execv(python, [python, *sys.argv[1:]])
    within = os.environ.get("ECHOSYNTH_WITHIN", "")
    files = {n: n for n in (0, 1, 2, *([int(within)] if within.isdecimal() else []), *_of_multiprocessing(words))}
    started = ask(address, words, os.getcwd(), os.environ, files)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(started.pid, signal.SIGTERM))
    status = started.wait()
    os._exit(status if status >= 0 else 128 - status)


def _of_multiprocessing(words: Sequence[str]) -> list[int]:
    """Pipes that a process of `multiprocessing` is started with; its command names only some."""
    if "--multiprocessing-fork" not in words:
        return []
    return [n for n in map(int, os.listdir("/proc/self/fd")) if n > 2 and _is_open(n)]


def _is_open(number: int) -> bool:
    """Not so of the file that listed them."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
