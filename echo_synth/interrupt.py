"""What Ctrl-C leaves: work says what it saved and which command continues it, and main prints that last."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

# Set for commands that another one started: that one tells how to go on. Its value is the descriptor of a
# pipe that closes when that one is gone, however it went.
WITHIN = "ECHOSYNTH_WITHIN"
_left: list[str] = []


@contextmanager
def resume_hint(command: str, saved: Callable[[], str] | str = "") -> Iterator[None]:
    """If the block is interrupted, keep what is to be told. The innermost hint counts.

    Args:
        command: the command line that continues, see `continue_with`.
        saved: what is safe on disk, or a function that tells it at that moment.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not _left:
            kept = saved() if callable(saved) else saved
            _left.append(f"{kept + '; ' if kept else ''}continue with: {command}")
        raise


def message() -> str | None:
    """What the interrupted work had to tell, or None where none had anything."""
    return _left[0] if _left else None


def continue_with(add: Mapping[str, str | None] | None = None, drop: Sequence[str] = ()) -> str:
    """This process's own command line, with options added where they are missing and flags dropped.

    Args:
        add: options with their values, None for flags, e.g. {"--resume": None, "--out": "FOLDER"}.
        drop: flags such as ("--overwrite",).
    """
    given = [a for a in sys.argv[1:] if a not in drop]
    names = {a.partition("=")[0] for a in given}
    missing = {option: value for option, value in (add or {}).items() if option not in names}
    more = [word for option, value in missing.items() for word in (option, value) if word is not None]
    return shlex.join(["echosynth", *given, *more])
