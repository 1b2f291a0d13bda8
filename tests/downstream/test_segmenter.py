"""What is refused before nnU-Net starts: damaged images, other settings, other content."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import write_image
from echo_synth.downstream import nnunet, segmenter
from echo_synth.errors import DataError, ExistsError, LeakageError, RunError
from echo_synth.files import write_json

TRAINER = "nnUNetTrainerEchoSynth_cpu"
BUDGET = asdict(nnunet.trainer_budget(TRAINER))


def _image(path: Path, shape: tuple[int, ...] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.ones(shape, np.uint8), (0.5, 0.5))
    return path


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    image = _image(tmp_path / "a_2CH_ED_0000.nii.gz")
    (tmp_path / "._a_2CH_ED_0000.nii.gz").write_bytes(b"resource fork")
    assert segmenter.images_in(tmp_path) == [image]
    with pytest.raises(DataError, match="imagesTs of a raw dataset"):
        segmenter.images_in(tmp_path / "nothing")


def test_every_image_is_read_before_any_work(tmp_path: Path) -> None:
    good = _image(tmp_path / "good_0000.nii.gz")
    segmenter.check_images([good], (8, 6))
    with pytest.raises(DataError, match=r"good_0000.*has 8 x 6 pixels, .*trained on 256 x 256.*convert-camus"):
        segmenter.check_images([good], (256, 256))
    cut = tmp_path / "cut_0000.nii.gz"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 4])
    with pytest.raises(DataError, match="cut_0000"):
        segmenter.check_images([good, cut], None)
    colour = tmp_path / "colour_0000.nii.gz"
    grey = sitk.ReadImage(str(good))
    sitk.WriteImage(sitk.Compose(grey, grey, grey), str(colour))
    with pytest.raises(DataError, match="colour_0000"):
        segmenter.check_images([colour], None)


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nnunet_raw.RawDataset:
    """A raw dataset of two images, and an unfinished training that was started with seed 1."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    raw = tmp_path / "nnunet" / "raw" / "Dataset501_TINY"
    for case in ("a_2CH_ED", "b_2CH_ED"):
        _image(raw / "imagesTr" / f"{case}_0000.nii.gz")
        _image(raw / "labelsTr" / f"{case}.nii.gz")
    write_json(raw / "dataset.json", nnunet_raw.dataset_json(2))
    made = nnunet_raw.find(501)
    fold = nnunet.trained_folder(501, TRAINER)
    fold.mkdir(parents=True)
    split = [
        {"case": c, "patient": c[0], "view": "2CH", "phase": "ED", "split": "train"} for c in ("a_2CH_ED", "b_2CH_ED")
    ]
    held_out = {"case": "c_2CH_ED", "patient": "c", "view": "2CH", "phase": "ED", "split": "test"}
    pd.DataFrame([*split, held_out]).to_csv(raw / "cases.csv", index=False)
    (fold / nnunet.LATEST).write_bytes(b"weights")
    environment = segmenter.SegmenterSettings(seed=1).environment()
    write_json(fold / segmenter.SETTINGS, {"environment": environment, "budget": BUDGET})
    write_json(fold / "echosynth_source.json", {"content": nnunet.content_of(made)})
    return made


def test_a_training_goes_on_with_its_own_settings_alone(dataset: nnunet_raw.RawDataset) -> None:
    same = segmenter.SegmenterSettings(seed=1)
    segmenter.check_training(dataset, TRAINER, same.environment())
    other = segmenter.SegmenterSettings(seed=2, flip=True)
    with pytest.raises(ExistsError, match=r"an unfinished training .*flip the trainer's, asked for 1"):
        segmenter.check_training(dataset, TRAINER, other.environment())
    with pytest.raises(RunError, match="--trainer nnUNetTrainer9"):
        segmenter.check_training(dataset, "nnUNetTrainer9", {})


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"budget": BUDGET | {"rate": 0.5}}, f"{TRAINER} had rate 0.5 then and has {BUDGET['rate']} now"),
        ({}, f"{TRAINER} had optimizer adam then and has muon now"),  # by a version that recorded no budget
    ],
)
def test_a_trainer_that_was_another_is_noticed(
    recorded: dict[str, object], words: str, dataset: nnunet_raw.RawDataset
) -> None:
    environment = segmenter.SegmenterSettings(seed=1).environment()
    settings = nnunet.trained_folder(501, TRAINER) / segmenter.SETTINGS
    write_json(settings, {"environment": environment, **recorded})
    with pytest.raises(
        ExistsError, match=rf"{words}\); repeat its command, remove the folder, or choose another --trainer"
    ):
        segmenter.check_training(dataset, TRAINER, environment)


@pytest.mark.parametrize("kind", ["imagesTr/a_2CH_ED_0000.nii.gz", "labelsTr/b_2CH_ED.nii.gz"])
def test_replaced_images_and_labels_are_noticed(dataset: nnunet_raw.RawDataset, kind: str) -> None:
    write_image(dataset.path / kind, np.zeros((8, 6), np.uint8), (0.5, 0.5))
    settings = segmenter.SegmenterSettings(seed=1)
    with pytest.raises(ExistsError, match="on other images, labels, shares or splits than Dataset501_TINY"):
        segmenter.check_training(dataset, TRAINER, settings.environment())
    fold = nnunet.trained_folder(501, TRAINER)
    (fold / nnunet.LATEST).rename(fold / nnunet.FINAL)
    with pytest.raises(RunError, match="train again"):
        segmenter.predict_segmenter(501, TRAINER, dataset.path / "imagesTr", dataset.path.parent / "out")


def _finished(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    torch.save({"network_weights": {"conv.weight": torch.full((2, 2), value)}}, folder / nnunet.FINAL)
    return folder


def test_weights_to_start_from_are_found_in_a_training(dataset: nnunet_raw.RawDataset, tmp_path: Path) -> None:
    fold = _finished(tmp_path / "trained" / "fold_0")
    for place in (fold, fold.parent, fold / nnunet.FINAL):
        found = segmenter.read_initial(place, dataset)
        assert found.file == fold / nnunet.FINAL
    with pytest.raises(RunError, match=r"--init .*nothing: no checkpoint_final\.pth there; expected"):
        segmenter.read_initial(tmp_path / "nothing", dataset)
    (fold / nnunet.FINAL).write_bytes(b"no weights")
    with pytest.raises(RunError, match="damaged"):
        segmenter.read_initial(fold, dataset)


def test_weights_that_know_held_out_patients_are_refused(dataset: nnunet_raw.RawDataset, tmp_path: Path) -> None:
    fold, other = _finished(tmp_path / "trained" / "fold_0"), tmp_path / "Dataset502_OTHER"
    other.mkdir()
    pd.read_csv(dataset.path / "cases.csv").assign(split="train").to_csv(other / "cases.csv", index=False)
    write_json(fold / segmenter.SETTINGS, {"dataset": str(other)})
    with pytest.raises(LeakageError, match="c: held-out"):
        segmenter.read_initial(fold, dataset)


def test_a_training_goes_on_from_its_own_start_alone(dataset: nnunet_raw.RawDataset, tmp_path: Path) -> None:
    start, other = (segmenter.read_initial(_finished(tmp_path / n, v), dataset) for n, v in (("a", 1.0), ("b", 2.0)))
    environment = segmenter.SegmenterSettings(seed=1).environment()
    with pytest.raises(ExistsError, match=f"initial weights none, asked for {start.hash}"):
        segmenter.check_training(dataset, TRAINER, environment, start)
    fold = nnunet.trained_folder(501, TRAINER)
    write_json(fold / segmenter.SETTINGS, {"environment": environment, "budget": BUDGET, "init": start.record()})
    segmenter.check_training(dataset, TRAINER, environment, start)
    for asked in (None, other):
        with pytest.raises(ExistsError, match=f"initial weights {start.hash}, asked for"):
            segmenter.check_training(dataset, TRAINER, environment, asked)


def test_only_the_options_change_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten variable would make a training of one epoch, which its settings.json calls the standard budget."""
    for name, value in (("EPOCHS", "1"), ("FLIP", "1"), ("SEED", "3"), ("THREADS", "1")):
        monkeypatch.setenv(f"ECHOSYNTH_NNUNET_{name}", value)
    asked = {"ECHOSYNTH_NNUNET_SEED": "5"}
    with nnunet._nnunet(tmp_path / "log.txt", asked):
        seen = {k: v for k, v in os.environ.items() if k.startswith("ECHOSYNTH_NNUNET_")}
    assert seen == {"ECHOSYNTH_NNUNET_SEED": "5", "ECHOSYNTH_NNUNET_THREADS": "1"}
    assert os.environ["ECHOSYNTH_NNUNET_EPOCHS"] == "1"
    assert os.environ["ECHOSYNTH_NNUNET_SEED"] == "3"
