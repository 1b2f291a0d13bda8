"""--json: standard output is JSON and nothing else, whatever stands on the terminal beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from cli import common
from cli.as_json import print_json, print_report, rows_of
from cli.main import app
from echo_synth.experiment.spec import SweepSpec
from tests.cli.reports import printed
from tests.cli.terminal import echosynth, in_terminal

REPORTS = {
    *("list", "doctor", "verify", "plan", "sweep", "bootstrap-eval", "quality"),
    *("inspect-vae", "fit-prior", "study-solvers", "benchmark"),
}


def test_every_command_that_reports_has_the_option() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name for name, c in commands.items() if any("--json" in p.opts for p in c.params)} == REPORTS


def test_numbers_without_a_name_in_json_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {"a": float("nan"), "b": [np.float32(np.inf), np.int64(3)], "c": np.array([1.5, np.nan]), "Γ": Path("x")}
    )
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"a": None, "b": [None, 3], "c": [1.5, None], "Γ": "x"}


def test_a_report_names_the_files_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.csv").touch()
    rows = rows_of(pd.DataFrame({"nfe": [1, 2], "rmse": [0.5, np.nan]}))
    print_report("study", tmp_path, ("c.png", "b.csv"), {"rows": rows})
    assert printed(capsys, "study", tmp_path) == {"rows": [{"nfe": 1, "rmse": 0.5}, {"nfe": 2, "rmse": None}]}


WORK = """
import sys
from pathlib import Path
from cli.as_json import print_report
from cli.common import say
from echo_synth.progress import Meter
meter = Meter(3, "work", "images")
meter.update(3)
say("a remark")
meter.close()
print_report("work", Path("."), (), {"share": 0.5})
"""


@pytest.mark.parametrize("redirected", ["1", "2"])
def test_on_a_terminal_standard_output_holds_the_report_alone(redirected: str, tmp_path: Path) -> None:
    """One of the two streams is the terminal, the other one a file."""
    file = tmp_path / "file"
    ended = in_terminal(["sh", "-c", f'exec "$0" -c "$1" {redirected}> "$2"', sys.executable, WORK, str(file)])
    assert ended.status == 0, ended.screen
    report, beside = (file.read_text(), ended.screen) if redirected == "1" else (ended.raw, file.read_text())
    assert json.loads(report)["results"] == {"share": 0.5}
    assert "a remark" in beside


def test_a_dry_run_on_a_terminal_prints_its_settings_as_json(tmp_path: Path) -> None:
    words = echosynth("phantom", str(tmp_path / "out"), "--patients", "2", "--dry-run")
    ended = in_terminal(["sh", "-c", '"$@" 2> /dev/null', "sh", *words])
    assert json.loads(ended.raw)["command"] == "phantom"
    assert not (tmp_path / "out").exists()


def test_resolved_settings_are_json_whatever_holds_their_paths(capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep's spec is a record with paths of its own: maps, and the checkpoints of its rows."""
    grid = {"edm-l64": {"nfe": [1], "checkpoint": "runs/a"}}
    spec = SweepSpec.model_validate({"real": 501, "count": 4, "maps": "maps/a", "models": grid})
    with pytest.raises(typer.Exit):
        common.begin("sweep", {"spec": spec, "out": Path("b")}, dry_run=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["spec"]["maps"], shown["spec"]["models"]["edm-l64"]["checkpoint"]) == ("maps/a", "runs/a")
