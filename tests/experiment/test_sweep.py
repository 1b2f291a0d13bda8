"""A small sweep from end to end, killed and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cli.sweep_commands import sweep

pytestmark = pytest.mark.slow


def _small(folder: Path) -> Path:
    """Without nnU-Net: real and one model, a classifier each."""
    spec = {
        "real": 501,
        "count": 8,
        "batch": 4,
        "models": {"edm-l64": {"nfe": [1]}},
        "segmenter": None,
        "repeats": 20,
        "cells": {"real": {"kind": "real"}},
        "classifier": {"epochs": 1, "resolution": 32},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(spec))
    return folder / "small.yaml"


def test_a_killed_sweep_goes_on_and_repeats_nothing(home: Path, tmp_path: Path) -> None:
    spec, out = _small(tmp_path), tmp_path / "sweep"
    command = [sys.executable, "-m", "cli.main", "sweep", str(spec), "--out", str(out), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    deadline = time.monotonic() + 600  # a slow machine with other work
    while time.monotonic() < deadline and len(list(out.glob("work/*/done.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in out.glob("work/*/done.json")}
    assert len(before) >= 2
    sweep(spec, out, device="cpu")
    after = {p: p.stat().st_mtime_ns for p in out.glob("work/*/done.json")}
    assert before.items() <= after.items()
    assert len(after) == 6
    table = pd.read_csv(out / "results.csv").set_index("cell")
    assert (table["state"] == "done").all()
    assert table["accuracy"].between(0, 1).all()
    assert table.loc["edm-l64_nfe1_seed0", "seconds_per_image"] > 0
    assert {p.name for p in out.glob("*.png")} == {"images.png", "scores.png", "throughput.png"}
    logs = {p: p.read_text() for p in out.glob("work/*/log.txt")}
    sweep(spec, out, device="cpu")
    assert logs == {p: p.read_text() for p in out.glob("work/*/log.txt")}
