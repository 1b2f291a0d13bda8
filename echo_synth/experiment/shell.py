"""Commands of `echosynth` as processes of their own, as a user would type them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from echo_synth.downstream.nnunet import changing_trainers
from echo_synth.interrupt import WITHIN

_PROGRAM = "cli.main"  # the module that is `echosynth`
_SECONDS_TO_SAVE = 60.0
_running: list[subprocess.Popen[bytes]] = []  # the command that `run_command` waits for


def run_command(words: Sequence[str], environment: Mapping[str, str], output: IO[str] | None = None) -> int:
    """Run `echosynth WORDS`; returns its exit status, negative for the signal that killed it.

    Ctrl-C reaches the command too; it is given a minute to save, and KeyboardInterrupt is raised here.
    The command ends with this process, also where that is killed. In a job of Slurm it has a process group of
    its own: Slurm signals whole groups, and the signal that announces a time limit would kill it unsaved;
    `let_running_save` passes on what it has to know.

    Args:
        environment: on top of this process's own.
        output: where standard output and error go; None: this process's.
    """
    alive, closes_with_us = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _PROGRAM, *words],  # -P: a folder named cli where we are is not ours
        env=inherited_environment() | dict(environment) | {WITHIN: str(alive)},
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        pass_fds=(alive,),
        process_group=0 if _in_slurm_job() else None,
    )
    _running.append(process)
    try:
        return process.wait()
    except KeyboardInterrupt:
        _let_end(process)
        raise
    finally:
        _running.remove(process)
        if process.poll() is None:
            process.kill()
        os.close(alive)
        os.close(closes_with_us)


def let_running_save(seconds: float = _SECONDS_TO_SAVE) -> None:
    """Interrupt the running command, if there is one, as Ctrl-C does, and wait until it has ended, `seconds` at most.

    For handlers of signals: `run_command` stays the one that collects its exit status.
    """
    until = time.monotonic() + seconds
    for process in _running:
        process.send_signal(signal.SIGINT)
        while not _has_ended(process.pid) and time.monotonic() < until:
            time.sleep(0.1)


def _has_ended(process: int) -> bool:
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # its status was collected
        return True


def _in_slurm_job() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _let_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_SECONDS_TO_SAVE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: at once
        process.kill()
        process.wait()


def inherited_environment() -> dict[str, str]:
    """This process's environment without what would change a trainer behind the settings' back."""
    changing = changing_trainers()
    return {k: v for k, v in os.environ.items() if k not in changing}


def last_line(log: Path) -> str:
    """The last line of a log that says something, at most 300 characters."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    spoken = [line for line in lines if line.strip()]
    return f"{spoken[-1]:.300}" if spoken else ""
