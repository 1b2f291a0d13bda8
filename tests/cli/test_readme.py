"""README's commands as a stranger pastes them: top to bottom into one shell on a terminal, word for word, at tiny lengths."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.terminal import ROOT, in_terminal
from tests.warm import Warm

BUNDLED_VAE = ROOT / "data_specs/bundled/gamma-vae-64"
# What sets up a machine is left out: a clone, an environment. `make demo` is the demo of test_terminal.py.
SETTING_UP = ("git clone ", "make ", "python3 -m venv ", "uv pip install ")
# Appended to what README says, by how the command begins; of an option given twice the last one counts.
SHORTER = {
    "generate --model edm-l64 --nfe 10": "--count 1",
    "make-maps": "--repeats 1",
    "train-vae": "--images 10 --batch 5",
    "train": f"--images 4 --batch 4 --copies 1 --vae {BUNDLED_VAE}",  # one of 4 images has no latents to learn
    "generate": "--count 8",
    "train-segmenter": "--epochs 1 --iterations 2",
    "train-classifier": "--epochs 1 --resolution 32 --batch 4",
    "bootstrap-eval": "--repeats 20",
    "quality": "--rate 0.5 --perceptual none",  # few patients cannot set a lower rate
    "sweep": "--dry-run",  # tests/experiment/test_sweep.py runs one
}


def _commands() -> list[str]:
    """Commands of README's bash blocks in their order, with the lines that continue them."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", "\\\0").splitlines()
    return [line.replace("\0", "\n") for line in lines if line.strip()]


def _shortening(folder: Path, python: str) -> Path:
    """A folder with an `echosynth` that is this checkout's, run by `python`, and shortens what takes long."""
    cases = "\n".join(f'  "{begin} "*) set -- "$@" {words};;' for begin, words in SHORTER.items())
    program = folder / "echosynth"
    folder.mkdir()
    program.write_text(f'#!/bin/sh\ncase "$* " in\n{cases}\nesac\nexec "{python}" -m tests.short "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def test_what_is_shortened_is_in_readme() -> None:
    commands = [" ".join(c.split()[1:]) for c in _commands() if c.startswith("echosynth ")]
    assert len(commands) > 10
    assert [begin for begin in SHORTER if not any(f"{c} ".startswith(f"{begin} ") for c in commands)] == []


@pytest.mark.slow
def test_the_commands_of_readme_lead_from_a_clone_to_results(
    phantom: Path, warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECHOSYNTH_HOME", raising=False)
    commands = [c for c in _commands() if not c.startswith(SETTING_UP)]
    clone, home, statuses = tmp_path / "clone", tmp_path / "home", tmp_path / "statuses"
    for folder in (clone, home):
        folder.mkdir()
    (home / "CAMUS").symlink_to(phantom)
    script = tmp_path / "pasted.sh"
    script.write_text("".join(f"{command}\necho $? $SECONDS >> '{statuses}'\n" for command in commands))
    path = f"{_shortening(tmp_path / 'bin', warm.python)}{os.pathsep}{os.environ['PATH']}"
    ended = in_terminal(["bash", str(script)], {"PATH": path, "HOME": str(home)}, clone, seconds=3600)
    ended_with = [line.split()[0] for line in statuses.read_text().splitlines()]
    failed = [c for c, status in zip(commands, ended_with, strict=False) if status != "0"]
    assert not failed, f"{failed[0]}\n{ended.screen[-3000:]}"
    assert len(ended_with) == len(commands)
    assert "Traceback" not in ended.screen
    _check_results(clone / "echosynth_home")
    assert list(clone.iterdir()) == [clone / "echosynth_home"]


def _check_results(home: Path) -> None:
    """What the chain leaves at its ends: masks and their scores, the page, the quality, the sweep."""
    masks = {p.name for p in (home / "predictions/edml64").glob("*.nii.gz")}
    assert masks == {p.name for p in (home / "nnunet/raw/Dataset501_CAMUS/labelsTs").glob("*.nii.gz")}
    scores = pd.read_csv(home / "evaluation/edml64/per_case.csv")
    assert {f"{case}.nii.gz" for case in scores["case"]} == masks
    assert (home / "evaluation/edml64/views.csv").is_file()
    assert "Evaluation: evaluation/edml64" in (home / "report.html").read_text()
    assert (home / "quality/Dataset601_EDM-L64_nfe10/quality.json").is_file()
