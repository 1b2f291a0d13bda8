"""What commands print with --json, as a program reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echo_synth import __version__


def printed(output: pytest.CaptureFixture[str], command: str, folder: Path) -> Any:
    """The results of a report: all of standard output is one object of the documented form."""
    report = json.loads(output.readouterr().out, parse_constant=_no_json)
    assert list(report) == ["command", "version", "out", "files", "results"]
    assert (report["command"], report["version"], report["out"]) == (command, __version__, str(folder))
    assert all((folder / name).is_file() for name in report["files"])
    return report["results"]


def _no_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
