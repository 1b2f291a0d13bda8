"""The view classifier: what it reads, and what it refuses to go on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echo_synth import specs
from echo_synth.downstream import classifier
from echo_synth.errors import DataError, RunError


def _pictures(folder: Path, grey: int = 100, names: str = "patient{:04d}_{}_ED") -> Path:
    """Two patients to train on, two to validate with, an image a view; 4CH is the brighter one."""
    for split, first in (("train", 1), ("val", 3)):
        for view, more in (("2CH", 0), ("4CH", 50)):
            (folder / split / view).mkdir(parents=True, exist_ok=True)
            for patient in (first, first + 1):
                image = Image.fromarray(np.full((32, 32), grey + more, np.uint8))
                image.save(folder / split / view / f"{names.format(patient, view)}.png")
    return folder


def _settings(**changes: object) -> classifier.ClassifierSettings:
    training = specs.TrainingSpec(images=4, batch=2, optimizer="adam", lr=1e-4, clip_norm=5.0, ema_std=0.0)
    values: dict[str, object] = {
        "resolution": 32,
        "training": training,
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
    }
    return classifier.ClassifierSettings(architecture=specs.classifier().architecture, **(values | changes))  # type: ignore[arg-type]


def test_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    first = classifier.read_pictures(_pictures(tmp_path / "a") / "train", 32)
    assert first.pixels.shape == (4, 32, 32)
    assert first.classes.tolist() == [0, 0, 1, 1]
    same = classifier.read_pictures(_pictures(tmp_path / "b") / "train", 32)
    assert first.fingerprint() == same.fingerprint()
    other = classifier.read_pictures(_pictures(tmp_path / "c", grey=101) / "train", 32)
    assert first.fingerprint() != other.fingerprint()
    renamed = classifier.read_pictures(_pictures(tmp_path / "d", names="patient1{:03d}_{}_ED") / "train", 32)
    assert first.fingerprint() != renamed.fingerprint()


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    folder = _pictures(tmp_path) / "train"
    (folder / "2CH" / "._patient0001_2CH_ED.png").write_bytes(b"resource fork")
    assert len(classifier.read_pictures(folder, 32).names) == 4


def test_names_that_are_no_cases_are_named(tmp_path: Path) -> None:
    pictures = classifier.read_pictures(_pictures(tmp_path, names="echo_{}_{}") / "train", 32)
    with pytest.raises(DataError, match=r"echo_1_2CH\.png: .*rename the images"):
        classifier.check_patients_apart(pictures, pictures, "val")


@pytest.mark.slow
def test_a_training_goes_on_with_its_own_images_and_settings_alone(tmp_path: Path) -> None:
    images, run = _pictures(tmp_path / "images"), tmp_path / "run"
    resolved = {"command": "train-classifier"}
    classifier.train_classifier(images, run, _settings(), False, resolved)
    weights = (run / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="seed = 0"):
        classifier.train_classifier(images, run, _settings(seed=1), True, resolved)
    _pictures(images, grey=90)
    with pytest.raises(RunError, match="pictures"):
        classifier.train_classifier(images, run, _settings(), True, resolved)
    assert (run / "model.safetensors").read_bytes() == weights
