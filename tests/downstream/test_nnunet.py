"""nnU-Net with the plugin: in this process and by its own commands, repeatable, mixed, refused where it must be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
import torch

from cli.data_commands import mix_datasets
from cli.generate_commands import generate
from cli.segmenter_commands import predict_segmenter, train_segmenter
from echo_synth.data import mix, nnunet_raw
from echo_synth.data.nifti import read_image
from echo_synth.downstream import nnunet
from echo_synth.errors import DataError, ExistsError, LeakageError, RunError
from echo_synth.evaluation.masks import pair_cases
from echo_synth.files import read_json
from echo_synth.home import nnunet_folder
from tests.warm import Warm

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nnunet")]  # planning takes a minute: once, in one process
SMOKE = "nnUNetTrainerEchoSynth_smoke"
SYNTHETIC, MIXED = 620, 701


def _command(warm: Warm, name: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """One of nnU-Net's own console commands, in the environment that `echosynth env` prints."""
    return subprocess.run(
        [warm.python, str(Path(sys.executable).with_name(name)), *arguments],
        env=os.environ | nnunet.environment() | extra,
        capture_output=True,
        text=True,
        check=False,
    )


def _weights(dataset_id: int, trainer: str = SMOKE) -> dict[str, torch.Tensor]:
    path = nnunet.trained_folder(dataset_id, trainer) / nnunet.FINAL
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=False)["network_weights"]
    return state


def _remove_training(dataset_id: int) -> None:
    shutil.rmtree(nnunet.trained_folder(dataset_id, SMOKE), ignore_errors=True)


@pytest.fixture
def synthetic(home: Path) -> int:
    """Eight images of the bundled model, of patients that the real set does not hold out."""
    if not nnunet_raw.existing(SYNTHETIC):
        generate("edm-l64", 1, count=8, dataset_id=SYNTHETIC, batch=8)
        file = nnunet_raw.find(SYNTHETIC).path / "cases.csv"
        cases = pd.read_csv(file)
        cases.assign(patient="patient9" + cases["split"].map({"train": "001", "val": "002"})).to_csv(file, index=False)
    return SYNTHETIC


@pytest.fixture
def planned(home: Path, synthetic: int) -> int:
    """A mixture of real and synthetic cases, planned and preprocessed without other processes."""
    if not nnunet_raw.existing(MIXED):
        mix_datasets(501, MIXED, [synthetic], share=0.75, patients=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BaseProcess, "start", lambda process: pytest.fail("few cases need no processes"))
            nnunet.plan_and_preprocess(MIXED, home / "plan.log")
    return MIXED


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[k].float() - other[k].float()).abs().sum()) for k in one)


def test_a_training_starts_from_anothers_weights(planned: int, tmp_path: Path) -> None:
    _remove_training(planned)
    short = {"epochs": 1, "iterations": 1, "device": "cpu"}
    train_segmenter(planned, SMOKE, seed=0, **short)  # type: ignore[arg-type]
    first = shutil.copytree(nnunet.trained_folder(planned, SMOKE), tmp_path / "first" / "fold_0")
    before = _weights(planned)
    _remove_training(planned)
    train_segmenter(planned, SMOKE, seed=1, init=first.parent, **short)  # type: ignore[arg-type]
    tuned = _weights(planned)
    settings = read_json(nnunet.trained_folder(planned, SMOKE) / "settings.json")
    assert settings["init"]["file"] == str(first / nnunet.FINAL)
    with pytest.raises(ExistsError, match=f"initial weights {settings['init']['hash']}, asked for none"):
        train_segmenter(planned, SMOKE, seed=1, **short)  # type: ignore[arg-type]
    _remove_training(planned)
    train_segmenter(planned, SMOKE, seed=1, **short)  # type: ignore[arg-type]
    assert 0 < _apart(before, tuned) < 0.1 * _apart(before, _weights(planned))
    _remove_training(planned)
    with pytest.raises(RunError, match=r"--init .*does not fit the network"):
        train_segmenter(planned, f"{SMOKE.removesuffix('_smoke')}_cpu256", init=first, **short)  # type: ignore[arg-type]


def test_the_commands_train_and_predict(planned: int, tmp_path: Path) -> None:
    _remove_training(planned)
    train_segmenter(planned, SMOKE, seed=0, device="cpu")
    predict_segmenter(planned, nnunet_raw.find(501).path / "imagesTs", SMOKE, out=tmp_path / "pred", device="cpu")
    assert pair_cases(tmp_path / "pred", nnunet_raw.find(501).path / "labelsTs")
    folder = nnunet.trained_folder(planned, SMOKE)
    assert "Using splits from existing split file" in next(folder.glob("training_log_*")).read_text()
    assert read_json(folder / "settings.json")["trainer"] == SMOKE
    plans = read_json(nnunet_folder("nnUNet_preprocessed") / nnunet_raw.find(planned).name / "nnUNetPlans.json")
    assert len(plans["configurations"]["2d"]["patch_size"]) == 2
    with pytest.raises(ExistsError, match="--overwrite"):
        predict_segmenter(planned, nnunet_raw.find(501).path / "imagesTs", SMOKE, out=tmp_path / "pred", device="cpu")


def test_weights_of_another_network_are_named(planned: int, tmp_path: Path) -> None:
    """A trainer whose network changed after the training: one line, not torch's list of names."""
    images = nnunet_raw.find(501).path / "imagesTs"
    file = nnunet.trained_folder(planned, SMOKE) / nnunet.FINAL
    if not file.is_file():
        train_segmenter(planned, SMOKE, seed=0, device="cpu")
    whole = file.read_bytes()
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"].popitem()
    try:
        torch.save(checkpoint, file)
        with pytest.raises(RunError, match=rf"not those of the network that {SMOKE} builds now"):
            predict_segmenter(planned, images, SMOKE, out=tmp_path / "pred", device="cpu")
        assert not (tmp_path / "pred").exists()
        file.rename(file.with_name(nnunet.LATEST))
        with pytest.raises(RunError, match=r"checkpoint_latest\.pth.*train again"):
            train_segmenter(planned, SMOKE, seed=0, device="cpu")
    finally:
        file.with_name(nnunet.LATEST).unlink(missing_ok=True)
        file.write_bytes(whole)


@pytest.mark.long  # both ways are tested apart below, and the README's chain runs one
def test_in_process_and_command_line_give_the_same(planned: int, warm: Warm, tmp_path: Path) -> None:
    """Same seed: same weights from both, and the same segmentations of the test images."""
    _remove_training(planned)
    train_segmenter(planned, SMOKE, seed=3, device="cpu")
    ours = _weights(planned)
    images = nnunet_raw.find(501).path / "imagesTs"
    predict_segmenter(planned, images, SMOKE, out=tmp_path / "ours", device="cpu")
    _remove_training(planned)
    result = _command(
        warm, "nnUNetv2_train", str(planned), "2d", "0", "-tr", SMOKE, "-device", "cpu", ECHOSYNTH_NNUNET_SEED="3"
    )
    assert result.returncode == 0, result.stderr[-500:]
    theirs = _weights(planned)
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in theirs)
    arguments = (
        "-d",
        str(planned),
        "-i",
        str(images),
        "-o",
        str(tmp_path / "theirs"),
        "-tr",
        SMOKE,
        "-c",
        "2d",
        "-f",
        "0",
    )
    result = _command(warm, "nnUNetv2_predict", *arguments, "-device", "cpu", "-npp", "1", "-nps", "1")
    assert result.returncode == 0, result.stderr[-500:]
    for path in (tmp_path / "ours").glob("*.nii.gz"):
        same = read_image(path).pixels == read_image(tmp_path / "theirs" / path.name).pixels
        assert same.mean() > 0.999


def test_nnunets_own_switches_are_honoured(planned: int, warm: Warm) -> None:
    """--disable_checkpointing writes no weights; --val --npz validates a finished training, which find_best_configuration reads."""
    folder = nnunet.trained_folder(planned, SMOKE)
    arguments = (str(planned), "2d", "0", "-tr", SMOKE, "-device", "cpu")
    _remove_training(planned)
    result = _command(warm, "nnUNetv2_train", *arguments, "--disable_checkpointing")
    assert result.returncode == 0, result.stderr[-500:]
    assert not list(folder.glob("checkpoint_*"))
    train_segmenter(planned, SMOKE, seed=0, device="cpu")
    assert not (folder / "validation").exists()  # a short budget leaves it out, unless asked for
    result = _command(warm, "nnUNetv2_train", *arguments, "--val", "--npz")
    assert result.returncode == 0, result.stderr[-500:]
    validated = {p.stem for p in (folder / "validation").glob("*.npz")}
    assert validated == set(read_json(nnunet_raw.find(planned).path / "splits_final.json")[0]["val"])


def test_a_seed_repeats_a_training_and_another_does_not(planned: int) -> None:
    weights = []
    for seed in (1, 1, 2):
        _remove_training(planned)
        train_segmenter(planned, SMOKE, seed=seed, device="cpu")
        weights.append(_weights(planned))
    first, second, third = weights
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], third[k]) for k in first)


def test_a_mixture_refers_to_its_sources(planned: int) -> None:
    dataset = nnunet_raw.find(planned)
    assert not list(dataset.path.rglob("*.nii.gz"))
    described = read_json(dataset.path / "dataset.json")
    cases = dataset.cases()
    assert described["numTraining"] == len(described["dataset"]) == len(cases)
    assert all(
        (dataset.path / path).is_file()
        for files in described["dataset"].values()
        for path in (*files["images"], files["label"])
    )
    assert described["sampling"] == {nnunet_raw.find(501).name: 0.25, nnunet_raw.find(SYNTHETIC).name: 0.75}
    fold = read_json(dataset.path / "splits_final.json")[0]
    assert not [c for c in fold["val"] if "aug" in c]
    assert (
        cases.loc[(cases["split"] == "train") & (cases["source"] == nnunet_raw.find(501).name), "patient"].nunique()
        == 2
    )


def test_fewer_patients_are_part_of_more(home: Path) -> None:
    real = nnunet_raw.find(501)
    few, more = (set(mix.choose_patients(real, n, 4)["case"]) for n in (1, 2))
    assert few < more


def test_a_dataset_of_references_is_a_dataset(home: Path, planned: int, synthetic: int) -> None:
    """A selection of a synthetic dataset, by reference, mixes like the dataset itself."""
    dataset = nnunet_raw.find(synthetic)
    cases = dataset.cases().assign(source=dataset.name)
    path = nnunet_raw.target(721, "CHOSEN", True, "mix-datasets")
    mix.write(path, cases.iloc[:5], {dataset.name: 1.0}, [dataset], {}, True)
    chosen = nnunet_raw.find(721)
    first = chosen.cases().iloc[0]
    assert chosen.image_path(first["case"], first["split"]).is_file()
    mix_datasets(501, 722, [721], name="AGAIN", overwrite=True)
    again = read_json(nnunet_raw.find(722).path / "dataset.json")
    assert again["sampling"] == {nnunet_raw.find(501).name: 0.5, dataset.name: 0.5}
    with pytest.raises(DataError, match="is a mixture itself"):
        mix._by_holder({"A": 1.0}, {"A": {"x", "y"}})


def test_a_changed_dataset_is_planned_anew_and_not_taken_for_trained(planned: int) -> None:
    _remove_training(planned)
    train_segmenter(planned, SMOKE, device="cpu")
    file = nnunet_raw.find(planned).path / "dataset.json"
    before = file.read_text()
    try:
        file.write_text(before.replace("0.75", "0.7"))
        assert not nnunet.is_planned(planned)
        with pytest.raises(ExistsError, match="remove it"):
            train_segmenter(planned, SMOKE, device="cpu")
    finally:
        file.write_text(before)
    assert nnunet.is_planned(planned)
    with pytest.raises(ExistsError, match="other settings"):
        train_segmenter(planned, SMOKE, epochs=2, device="cpu")


def test_bad_mixtures_are_refused(home: Path, synthetic: int) -> None:
    real = nnunet_raw.find(501)
    with pytest.raises(DataError, match="--share 0"):
        mix_datasets(501, 703, [synthetic], share=0.0)
    with pytest.raises(DataError, match="--patients 99"):
        mix_datasets(501, 703, [synthetic], patients=99)
    file = nnunet_raw.find(SYNTHETIC).path / "cases.csv"
    before = file.read_bytes()
    cases = pd.read_csv(file)
    cases.loc[cases["split"] == "train", "patient"] = sorted(nnunet_raw.test_patients(real))[0]
    cases.to_csv(file, index=False)
    try:
        with pytest.raises(LeakageError, match="held-out"):
            mix_datasets(501, 703, [synthetic])
    finally:
        file.write_bytes(before)
    assert not nnunet_raw.existing(703)


def test_wrong_requests_are_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--trainer nnUNetTrainer9: not a trainer"):
        train_segmenter(501, "nnUNetTrainer9", device="cpu")
    with pytest.raises(DataError, match="no Dataset777"):
        train_segmenter(777, SMOKE, device="cpu")
    with pytest.raises(RunError, match="run 'echosynth train-segmenter"):
        predict_segmenter(501, nnunet_raw.find(501).path / "imagesTs", "nnUNetTrainerEchoSynth", tmp_path / "p", "cpu")
    with pytest.raises(DataError, match="imagesTs of a raw dataset"):
        predict_segmenter(501, tmp_path, SMOKE, tmp_path / "p", "cpu")
    mix_datasets(501, 704, name="UNPLANNED", overwrite=True)
    with pytest.raises(RunError, match=r"nnU-Net failed: .*its output is in"):
        nnunet.train(704, SMOKE, tmp_path / "log.txt")
    assert (tmp_path / "log.txt").is_file()
