"""report.html: one self-contained page of whatever a folder holds, readable offline, on a phone and in print."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from echo_synth import __version__
from echo_synth.errors import DataError
from echo_synth.files import write_text
from echo_synth.report.blocks import PageSection, keep_together
from echo_synth.report.content import LEFT_OUT, sections_of
from echo_synth.report.target import GENERATOR

_TEMPLATE = "page.html.j2"
_LONE = re.compile("[\ud800-\udfff]")


def build(folder: Path) -> str:
    """The page for everything found below `folder`: sweeps, evaluations, datasets, training runs."""
    return render(folder.name, sections_of(folder))


def write_page(target: Path, folder: Path) -> None:
    """Write the page of `folder`, see `build`, to `target`.

    Raises DataError, once it is written, when it names damaged or foreign files and shows nothing else.
    """
    sections = sections_of(folder)
    write_text(target, render(folder.name, sections))
    if [section.title for section in sections] == [LEFT_OUT]:
        raise DataError(f"{folder}: no file in it can be shown; {target} names each and says what is wrong with it")


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
    return template.render(name=name, sections=sections, made=made, version=__version__, generator=GENERATOR)


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
