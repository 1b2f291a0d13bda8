"""Commands of `echosynth` as processes of their own, as a user would type them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from echo_synth.interrupt import WITHIN

_TRAINER_PREFIX = "ECHOSYNTH_NNUNET_"  # would change a trainer behind the settings' back
_SECONDS_TO_SAVE = 60.0


def run_command(words: Sequence[str], environment: Mapping[str, str], output: IO[str] | None = None) -> int:
    """Run `echosynth WORDS`; returns its exit status, negative for the signal that killed it.

    Ctrl-C reaches the command too; it is given a minute to save, and KeyboardInterrupt is raised here.
    The command ends with this process, also where that is killed.

    Args:
        environment: on top of this process's own.
        output: where standard output and error go; None: this process's.
    """
    alive, closes_with_us = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", *words],  # -P: a folder named cli where we are is not ours
        env=inherited_environment() | dict(environment) | {WITHIN: str(alive)},
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        pass_fds=(alive,),
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        _let_end(process)
        raise
    finally:
        if process.poll() is None:
            process.kill()
        os.close(alive)
        os.close(closes_with_us)


def _let_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_SECONDS_TO_SAVE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: at once
        process.kill()
        process.wait()


def inherited_environment() -> dict[str, str]:
    """This process's environment without what would change a trainer."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_TRAINER_PREFIX)}


def last_line(log: Path) -> str:
    """The last line of a log that says something, at most 300 characters."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    spoken = [line for line in lines if line.strip()]
    return f"{spoken[-1]:.300}" if spoken else ""
