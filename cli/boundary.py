"""What a user reads when something goes wrong."""

from __future__ import annotations

from pathlib import Path

from echo_synth.errors import EchoSynthError
from echo_synth.files import disk_error


def explain(e: Exception) -> str:
    """One or two lines for any exception; unexpected ones say how to see the traceback."""
    if isinstance(e, EchoSynthError):
        return str(e)
    if isinstance(e, OSError) and e.filename:
        return str(disk_error(e, Path(str(e.filename))))
    if isinstance(e, MemoryError):
        return "out of memory; use a smaller --batch or --size"
    return f"unexpected {type(e).__name__}: {e}\nRun again with --debug for the traceback; this is likely a defect."
