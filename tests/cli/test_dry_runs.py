"""What a run refuses, its dry run refuses too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cli.classifier_commands import train_classifier
from cli.demo import demo
from cli.segmenter_commands import predict_segmenter, train_segmenter
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError, RunError

ROOT = Path(__file__).parents[2]


def test_an_unknown_trainer_is_refused(home: Path) -> None:
    with pytest.raises(RunError, match="--trainer foo: not a trainer"):
        train_segmenter(501, trainer="foo", device="cpu", dry_run=True)


def test_a_segmenter_that_was_not_trained_is_refused(home: Path) -> None:
    images = nnunet_raw.find(501).path / "imagesTs"
    with pytest.raises(RunError, match="missing; run 'echosynth train-segmenter"):
        predict_segmenter(501, images, trainer="nnUNetTrainerEchoSynth_smoke", device="cpu", dry_run=True)


def test_a_raw_dataset_is_no_classification_folder(home: Path) -> None:
    with pytest.raises(DataError, match="name a classification folder, not a raw dataset"):
        train_classifier(nnunet_raw.find(501).path, device="cpu", dry_run=True)


def test_a_segmenter_is_estimated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        train_segmenter(501, trainer="nnUNetTrainerEchoSynth_cpu", device="cpu", dry_run=True)
    said = capsys.readouterr().err
    assert re.search(r"^estimate: about [\d.]+ (min|h).*, [\d.]+ .iB of disk, .* \(a guess, from ", said, re.M), said


def test_a_sweep_tells_its_estimate_below_the_settings(home: Path, tmp_path: Path) -> None:
    both = subprocess.run(
        [sys.executable, "-m", "cli.main", "sweep", "smoke.yaml", "--out", str(tmp_path / "s"), "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    below = both.rpartition("\n}\n")[2]
    assert below.startswith("estimate: about ")
    assert both.count("estimate: about ") == 2
    assert ", the bundled weights" in both
    assert "newest" not in both
    assert "FutureWarning" not in both


@pytest.mark.parametrize(("minutes", "expected"), [(1, "about 3.7 min"), (8, "about 8 min")])
def test_the_demo_promises_no_less_than_it_needs(
    minutes: float, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_synth.experiment.demo._LEAST_SHARE", 0.02)  # tests.short makes it less
    with pytest.raises(typer.Exit):
        demo(tmp_path / "demo", minutes, dry_run=True)
    assert expected in capsys.readouterr().err
