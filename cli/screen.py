"""Text on terminals that cannot show all of it: a console in code page 1252, a pipe in ASCII."""

from __future__ import annotations

import codecs
import sys

_SPELLED = {
    "Γ": "Gamma",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "σ": "sigma",
    "ρ": "rho",
    "×": "x",
    "±": "+-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "≥": ">=",
    "≤": "<=",
    "°": " degrees",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """The character that cannot be shown, spelled, or a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLED.get(c, "?") for c in error.object[error.start : error.end]), error.end


def show_everything() -> None:
    """From now on no character of a message can end this process."""
    codecs.register_error("spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spell")
