"""--json: what a command reports as one JSON value on standard output, for programs; progress and remarks stay on standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import plain

Json = Annotated[
    bool, typer.Option("--json", help="Print results as JSON on standard output, all else on standard error.")
]


def print_json(value: Any) -> None:
    """`value` in ASCII, whatever the terminal can show; numbers that JSON does not have are null."""
    import json

    typer.echo(json.dumps(_finite(plain(value)), indent=2, allow_nan=False))


def print_report(command: str, folder: Path, files: Iterable[str], results: Mapping[str, Any]) -> None:
    """The one form of what was measured: command, version, out, files (of `out`), results."""
    from echo_synth import __version__

    written = sorted(name for name in files if (folder / name).is_file())
    head = {"command": command, "version": __version__, "out": folder.absolute(), "files": written}
    print_json(head | {"results": results})


def rows_of(table: Any) -> list[dict[str, Any]]:
    """A pandas table as a list of rows, names of columns as keys."""
    return [dict(row) for row in table.to_dict("records")]


def _finite(value: Any) -> Any:
    """`value` without NaN, infinities and the number types of numpy."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
