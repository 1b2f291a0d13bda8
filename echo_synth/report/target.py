"""Where a page may be written; apart from the page, so that it is known before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

from echo_synth.files import check_writable
from echo_synth.outputs import check_file

GENERATOR = "EchoSynth report"
_HEAD_BYTES = 4096  # in which a page names its maker


def check_target(path: Path, overwrite: bool) -> None:
    """Raise unless a page may be written to `path`; touches nothing.

    A page that this command made gives way to its successor. Any other file does so with `overwrite`
    only, and only if it is a web page: nothing that a page is made from.

    Raises:
        ExistsError: something else is there.
        DataError: the place is not writable.
    """
    check_writable(path.parent)
    if not os.path.lexists(path) or is_page(path):
        return
    is_html = path.suffix.lower() in (".html", ".htm")
    check_file(path, overwrite, ours=is_html)


def is_page(path: Path) -> bool:
    """Whether a file is a page of this command, by the name of its maker in its head."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    # Pages of versions before the maker's name have the title alone.
    marks = (f'<meta name="generator" content="{GENERATOR}">', "<title>EchoSynth report</title>")
    return any(mark.encode() in head for mark in marks)
