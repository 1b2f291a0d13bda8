"""Ways of computing images that do not go together; without torch, so that a mistake is told at once."""

from __future__ import annotations

from echo_synth.errors import SpecError


def check_ways(precision: str, compiled: bool) -> None:
    """Raise SpecError for int8 with torch.compile: its layers choose their scales in Python."""
    if precision.startswith("int8") and compiled:
        raise SpecError("--precision int8 cannot be compiled; leave --compile out (in the file of a sweep: compile)")
