"""report.html: one self-contained page of whatever a folder holds, readable offline, on a phone and in print."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from echo_synth import __version__
from echo_synth.files import check_writable
from echo_synth.outputs import check_file
from echo_synth.report.blocks import PageSection, keep_together
from echo_synth.report.content import sections_of

_TEMPLATE = "page.html.j2"
_GENERATOR = "EchoSynth report"
_LONE = re.compile("[\ud800-\udfff]")
_HEAD_BYTES = 4096  # in which a page names its maker


def build(folder: Path) -> str:
    """The page for everything found below `folder`: sweeps, evaluations, datasets, training runs."""
    return render(folder.name, sections_of(folder))


def render(name: str, sections: list[PageSection]) -> str:
    """The page of `sections` as HTML; every text is escaped. `name` says what it is about."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.finalize = _encodable
    environment.filters |= {"keep_together": keep_together, "as_json": _as_json}
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    template = environment.get_template(_TEMPLATE)
    return template.render(name=name, sections=sections, made=made, version=__version__, generator=_GENERATOR)


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
    marks = (f'<meta name="generator" content="{_GENERATOR}">', "<title>EchoSynth report</title>")
    return any(mark.encode() in head for mark in marks)


def _encodable(value: object) -> object:
    """Text that UTF-8 can hold: names of files and strings of JSON may hold bytes or halves of characters that it cannot."""
    if not isinstance(value, str):
        return value
    return type(value)(value.encode("utf-8", "replace").decode("utf-8")) if _LONE.search(value) else value


def _as_json(values: Mapping[str, Any]) -> str:
    try:
        return json.dumps(values, indent=1, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"
