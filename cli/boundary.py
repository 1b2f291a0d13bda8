"""What a user reads when something goes wrong."""

from __future__ import annotations

import errno
from pathlib import Path

from echo_synth.errors import EchoSynthError, shortened
from echo_synth.files import disk_error

_MEMORY = "out of memory; free some, or use a smaller batch, size or number of workers, as far as the command has such options"


def explain(e: Exception) -> str:
    """One or two lines for any exception; unexpected ones say how to see the traceback.

    Bad input is told by the readers, which know the file and what was expected of it. What is
    mapped here can happen anywhere: the disk and the memory.
    """
    if isinstance(e, EchoSynthError):
        return str(e)
    if isinstance(e, OSError):
        return shortened(_explain_system(e))
    if is_memory(e):
        return _MEMORY
    return f"unexpected {type(e).__name__}: {shortened(str(e))}\nRun again with --debug for the traceback; this is likely a defect."


def _explain_system(e: OSError) -> str:
    if e.filename:
        return str(disk_error(e, Path(str(e.filename))))
    where = ", on writing to standard output or to a file that it did not name" if e.errno == errno.ENOSPC else ""
    return f"the system refused: {e.strerror or e}{where}"


def is_memory(e: Exception) -> bool:
    """Whether the memory did not suffice; torch has no class of its own for the CPU's."""
    words = str(e)
    return isinstance(e, MemoryError) or (
        isinstance(e, RuntimeError)
        and (type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in words or "not enough memory" in words)
    )
