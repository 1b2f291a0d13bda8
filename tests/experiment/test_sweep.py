"""A small sweep from end to end, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml

from cli.sweep_commands import sweep
from tests.cli.reports import printed
from tests.warm import Warm

pytestmark = pytest.mark.slow


def _small(folder: Path) -> Path:
    """Without nnU-Net: real and one model, a classifier each, and the model's images judged."""
    spec = {
        "real": 501,
        "count": 8,
        "batch": 4,
        "models": {"edm-l64": {"nfe": [1]}},
        "segmenter": None,
        "repeats": 20,
        "cells": {"real": {"kind": "real"}},
        "classifier": {"epochs": 1, "resolution": 32},
        "quality": {"count": 6, "rate": 0.5, "perceptual": "none"},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(spec))
    return folder / "small.yaml"


def test_a_killed_sweep_goes_on_and_repeats_nothing(
    home: Path, warm: Warm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", warm.python)  # runs the stages
    spec, out = _small(tmp_path), tmp_path / "sweep"
    words = ["-m", "cli.main", "sweep", str(spec), "--out", str(out), "--device", "cpu"]
    with open(tmp_path / "output.txt", "wb") as output:
        process = warm.start(words, {}, output.fileno())
    deadline = time.monotonic() + 600  # a slow machine with other work
    while time.monotonic() < deadline and len(list(out.glob("work/*/done.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in out.glob("work/*/done.json")}
    assert len(before) >= 2
    sweep(spec, out, device="cpu")
    after = {p: p.stat().st_mtime_ns for p in out.glob("work/*/done.json")}
    assert before.items() <= after.items()
    assert len(after) == 7
    table = pd.read_csv(out / "results.csv").set_index("cell")
    assert (table["state"] == "done").all()
    assert table["accuracy"].between(0, 1).all()
    assert table.loc["edm-l64_nfe1_seed0", "seconds_per_image"] > 0
    judged = table.loc["edm-l64_nfe1_seed0", ["grain_ratio", "grey_level_distance", "near_copies", "frechet_distance"]]
    assert (judged.dropna() >= 0).sum() == 4
    assert table[["agreement", "diversity_ratio"]].isna().all(axis=None)  # no segmenter, no network
    assert (
        "No correlation of looks and outcomes is given: it needs 4 datasets that have both, found 1"
        in capsys.readouterr().out
    )
    assert {p.name for p in out.glob("*.png")} == {"images.png", "scores.png", "throughput.png"}
    logs = {p: p.read_text() for p in out.glob("work/*/log.txt")}
    capsys.readouterr()
    sweep(spec, out, device="cpu", as_json=True)
    cells = printed(capsys, "sweep", out)["cells"]
    assert [cell["cell"] for cell in cells] == list(table.index)
    assert [cell.get("accuracy") for cell in cells] == pytest.approx(list(table["accuracy"]), rel=1e-5)
    sweep(spec, out, device="cpu", status=True, as_json=True)
    assert printed(capsys, "sweep", out)["cells"] == cells
    with pytest.raises(typer.Exit):
        sweep(spec, tmp_path / "other", device="cpu", dry_run=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["estimate"]["seconds"] > 0
    assert logs == {p: p.read_text() for p in out.glob("work/*/log.txt")}
