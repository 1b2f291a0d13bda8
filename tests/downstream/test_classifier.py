"""The view classifier: what it reads, and what it refuses to go on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from echo_synth import specs
from echo_synth.downstream import classifier
from echo_synth.errors import DataError, ExistsError, LeakageError, RunError
from echo_synth.files import write_json
from echo_synth.runs.folder import open_run
from echo_synth.runs.start import RunRequest


def _pictures(folder: Path, grey: int = 100, names: str = "patient{:04d}_{}_ED") -> Path:
    """Two patients to train on, two to validate with, an image a view; 4CH is the brighter one.

    With a pattern: batch norm makes enormous gradients of flat images.
    """
    pattern = np.random.default_rng(0).integers(0, 60, (32, 32))
    for split, first in (("train", 1), ("val", 3)):
        for view, more in (("2CH", 0), ("4CH", 50)):
            (folder / split / view).mkdir(parents=True, exist_ok=True)
            for patient in (first, first + 1):
                image = Image.fromarray(np.roll(grey + more + pattern, patient).astype(np.uint8))
                image.save(folder / split / view / f"{names.format(patient, view)}.png")
    return folder


def _settings(**changes: object) -> classifier.ClassifierSettings:
    training = specs.TrainingSpec(images=8, batch=4, optimizer="adam", lr=1e-4, clip_norm=5.0, ema_std=0.0)
    values: dict[str, object] = {
        "resolution": 32,
        "training": training,
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
    }
    return classifier.ClassifierSettings(architecture=specs.classifier().architecture, **(values | changes))  # type: ignore[arg-type]


def _request(folder: Path, resume: bool = False) -> RunRequest:
    return RunRequest("train-classifier", folder.name, folder, resume)


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
        classifier.check_patients_apart(pictures.names, pictures.names, pictures.subject, "val")


def test_images_are_changed_where_the_network_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without numbers: what is drawn stays here, what is done to the images happens there, as bytes they travel."""
    pictures = classifier.read_pictures(_pictures(tmp_path) / "train", 32)
    task, seen = classifier.ClassifierTask(pictures, pictures, "meta", 0), list[tuple[str, torch.dtype]]()
    for name in ("warp", "colour"):
        monkeypatch.setattr(classifier, name, _noting(getattr(classifier, name), seen))
    monkeypatch.setattr(classifier, "to_device", _noting(classifier.to_device, seen))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, 2)).to("meta")
    assert task.loss(network, range(3))["loss"].device.type == "meta"
    assert seen == [("cpu", torch.uint8), ("meta", torch.float32), ("meta", torch.float32), ("cpu", torch.int64)]


def _noting(does: Callable[..., torch.Tensor], seen: list[tuple[str, torch.dtype]]) -> Callable[..., torch.Tensor]:
    """`does`, with its first argument's device and type noted."""

    def noted(*given: Any) -> torch.Tensor:
        first = torch.as_tensor(given[0])
        seen.append((first.device.type, first.dtype))
        return does(*given)

    return noted


def test_test_patients_are_neither_learnt_nor_begun_with(tmp_path: Path) -> None:
    images = _pictures(tmp_path / "images")
    shutil.copytree(images / "val", images / "test")
    with pytest.raises(DataError, match=r"patient\d+ and 1 more are in val and in test"):
        classifier.check_pictures(images)
    for path in list((images / "test").rglob("*.png")):
        path.rename(path.with_name(path.name.replace("patient0", "patient9")))
    subject = classifier.check_pictures(images)
    other, run = _pictures(tmp_path / "other", names="patient9{:03d}_{}_ED"), tmp_path / "run"
    run.mkdir()
    for learnt in (tmp_path / "removed", images):
        write_json(run / "settings.json", {"images": str(learnt)})
        classifier._refuse_leak(run, images, subject)
    write_json(run / "settings.json", {"images": str(other)})
    with pytest.raises(LeakageError, match=r"patient9\d+.*training images of --init .*run"):
        classifier._refuse_leak(run, images, subject)


def test_weights_that_saw_colours_answer_the_same_to_grey(tmp_path: Path) -> None:
    """Weights from ImageNet have filters of three colours; without them the first layer would be random."""

    def network(channels: int) -> torch.nn.Sequential:
        return torch.nn.Sequential(torch.nn.Conv2d(channels, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=4))

    coloured, grey = network(3), network(1)
    save_file(coloured.state_dict(), tmp_path / "weights.safetensors")
    classifier._load_backbone(grey, tmp_path / "weights.safetensors")
    image = torch.rand(1, 1, 8, 8)
    assert torch.allclose(grey(image), coloured(image.expand(-1, 3, -1, -1)), atol=1e-6)


@pytest.mark.slow
def test_a_training_goes_on_with_its_own_images_and_settings_alone(tmp_path: Path) -> None:
    images, run = _pictures(tmp_path / "images"), tmp_path / "run"
    resolved = {"command": "train-classifier"}
    classifier.train_classifier(images, _request(run), _settings(), resolved)
    weights = (run / "model.safetensors").read_bytes()
    with pytest.raises(
        ExistsError, match="holds a run"
    ):  # as if another process had ended it while this one read images
        classifier.train_classifier(images, _request(run), _settings(), resolved)
    with pytest.raises(RunError, match="seed = 0"):
        classifier.train_classifier(images, _request(run, resume=True), _settings(seed=1), resolved)
    _pictures(images, grey=90)
    with pytest.raises(RunError, match="pictures"):
        classifier.train_classifier(images, _request(run, resume=True), _settings(), resolved)
    assert (run / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_a_training_starts_from_another_run_and_says_so(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    images, resolved = _pictures(tmp_path / "images"), {"command": "train-classifier"}
    first, second, scratch = (tmp_path / name for name in ("first", "second", "scratch"))
    classifier.train_classifier(images, _request(first), _settings(), resolved)
    classifier.train_classifier(images, _request(second), _settings(seed=1, init=first), resolved)
    classifier.train_classifier(images, _request(scratch), _settings(seed=1), resolved)
    start, tuned, new = (load_file(run / "model.safetensors") for run in (first, second, scratch))
    apart = [sum(float((w[k] - start[k]).abs().sum()) for k in start if k.endswith("weight")) for w in (tuned, new)]
    assert 0 < apart[0] < 0.1 * apart[1]
    described = open_run(second, "classifier").description
    assert described.init is not None
    assert described.init.weights == open_run(first).hash()
    with pytest.raises(RunError, match="init"):
        classifier.train_classifier(images, _request(second, resume=True), _settings(seed=1), resolved)
    header = (first / "model.json").read_text(encoding="utf-8")
    (first / "model.json").write_text(header.replace('"2CH",\n    "4CH"', '"4CH",\n    "2CH"'), encoding="utf-8")
    with pytest.raises(RunError, match=r"--init .*first: its classes is .*expected"):
        classifier.train_classifier(images, _request(tmp_path / "third"), _settings(init=first), resolved)
    assert torch.isfinite(tuned["classifier.weight"]).all()
