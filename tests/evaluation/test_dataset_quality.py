"""The quality command on phantom data: a planted copy is found and dropped, maps are compared, inputs are checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from cli.classifier_commands import train_classifier
from cli.generate_commands import generate
from cli.quality_commands import quality
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import read_pixels
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError, ExistsError
from echo_synth.evaluation import copies, dataset_quality
from echo_synth.files import read_json
from echo_synth.training import perceptual_networks
from tests.cli.reports import printed

pytestmark = pytest.mark.slow


def _replace(path: Path, pixels: np.ndarray) -> None:
    image = sitk.GetImageFromArray(pixels)
    image.CopyInformation(sitk.ReadImage(str(path)))
    sitk.WriteImage(image, str(path), useCompression=True)


@pytest.fixture
def synthetic(home: Path) -> RawDataset:
    """Ten images of the bundled model; the first is a training image, mirrored, moved by a pixel, ±2 grey levels."""
    if not nnunet_raw.existing(640):
        generate("edm-l64", 1, count=10, dataset_id=640, batch=5)
        dataset = nnunet_raw.find(640)
        source = nnunet_raw.find(501)
        stolen = read_pixels(source.image_path(source.cases().query("split == 'train'")["case"].iloc[1], "train"))
        noise = np.random.default_rng(0).integers(-2, 3, stolen.shape)
        changed = np.where(stolen > 0, np.clip(stolen.astype(int) + noise, 1, 255), 0).astype(np.uint8)
        first = dataset.cases().iloc[0]
        _replace(dataset.image_path(first["case"], first["split"]), np.roll(changed, 1, axis=0)[:, ::-1].copy())
    return nnunet_raw.find(640)


def _masks(synthetic: RawDataset, folder: Path, spoilt: str) -> Path:
    """The maps themselves as predictions, one of them empty."""
    folder.mkdir()
    for path in (synthetic.path / "labelsTr").iterdir():
        shutil.copyfile(path, folder / path.name)
    _replace(folder / f"{spoilt}.nii.gz", np.zeros((256, 256), np.uint8))
    return folder


def test_the_floor_is_that_of_all_held_out_patients() -> None:
    """Held-out features in the order of their patients: the first hundred are one kind of heart, the last another."""
    rng = np.random.default_rng(0)
    hearts = np.repeat([[-3.0, 0], [3.0, 0]], 100, 0)
    held_out, real = (hearts + 0.1 * rng.standard_normal((200, 2)) for _ in range(2))
    result = dataset_quality.feature_distances(real[:100], real, held_out, seed=0)
    assert result["images"] == 100
    assert result["synthetic"]["frechet_distance"] > 9
    assert result["unseen_real"]["frechet_distance"] < 0.5


def test_a_share_of_none_or_all_has_an_interval_over_patients() -> None:
    patients = np.repeat(["a", "b", "c"], 4)
    none = copies.flagged_share(np.zeros(12, bool), patients, 0)
    assert none["ci95"] == pytest.approx([0, 1 - 0.025 ** (1 / 3)])
    assert copies.flagged_share(np.ones(12, bool), patients, 0)["ci95"] == pytest.approx([0.025 ** (1 / 3), 1])
    low, high = copies.flagged_share(np.arange(12) < 4, patients, 0)["ci95"]
    assert low == 0
    assert high > 0.6


def test_areas_of_cavities_by_size() -> None:
    rng = np.random.default_rng(0)
    true = np.repeat([2000, 2500, 5000, 6000], 20)
    lean = np.where(true < 3000, 1.2, 0.9) * rng.normal(1, 0.02, len(true))
    table = pd.DataFrame(
        {"patient": [f"p{i // 2}" for i in range(len(true))], "area_map": true, "area_read": true * lean}
    )
    none, small, middle, large = dataset_quality.cavity_areas(table)
    assert (none["images"], none["ratio"], middle["images"]) == (0, None, 0)
    assert (small["images"], small["high"], large["high"]) == (40, 3000, None)
    for entry, ratio in ((small, 1.2), (large, 0.9)):
        assert entry["ratio"] == pytest.approx(ratio, abs=0.01)
        assert entry["ci95"][0] < entry["ratio"] < entry["ci95"][1]
        assert entry["ci95"][1] - entry["ci95"][0] < 0.03


def test_maps_without_a_cavity_have_no_ratio() -> None:
    table = pd.DataFrame({"patient": ["p0", "p1"], "area_map": [0, 0], "area_read": [0, 7]})
    smallest = dataset_quality.cavity_areas(table)[0]
    assert (smallest["images"], smallest["ratio"]) == (2, None)


def test_a_planted_copy_is_found_and_dropped(
    home: Path, synthetic: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four phantom validation images cannot calibrate; tests/metrics/test_image_quality.py tests how thresholds are set.
    monkeypatch.setattr(copies, "limits_of", lambda unseen, rate: {"pixels": 0.93})
    cases = synthetic.cases()
    copied, spoilt = cases["case"].iloc[0], cases["case"].iloc[3]
    masks = _masks(synthetic, tmp_path / "masks", spoilt)
    options = {"features": False, "predictions": masks, "perceptual": "none", "drop": 641, "device": "cpu", "rate": 0.5}
    quality(640, 501, out=tmp_path / "q", **options)
    table = pd.read_csv(tmp_path / "q/quality.csv").set_index("case")
    real = nnunet_raw.find(501).cases().query("split == 'train'")["case"].iloc[1]
    assert table.loc[copied, "copy"]
    assert table.loc[copied, "nearest_in_pixels"] == real
    assert table.loc[copied, "similarity_in_pixels"] > 0.9
    assert table["similarity_in_pixels"].idxmax() == copied
    assert table["low_agreement"].to_dict() == dict.fromkeys(table.index, False) | {spoilt: True}
    result = read_json(tmp_path / "q/quality.json")
    assert result["agreement"]["low"] == 1
    assert sum(entry["images"] for entry in result["cavity_areas"]) == len(table)
    assert result["privacy"]["synthetic"]["flagged"] == table["copy"].sum()
    assert 0 <= result["real_or_synthetic"]["auroc"] <= 1
    assert set(result["texture"]) == {"synthetic", "real"}
    recall = {entry["change"]: entry["share"] for entry in result["privacy"]["recall"]}
    assert recall["none"] == recall["mirrored"] == 1
    assert {"rotated by 1°", "rotated by 5°", "rotated by 10°", "scaled by 0.9", "scaled by 1.1"} < set(recall)
    kept = set(nnunet_raw.find(641).cases()["case"])
    assert kept == set(table.index[~(table["copy"] | table["low_agreement"])])
    assert not list(nnunet_raw.find(641).path.rglob("*.nii.gz"))
    with pytest.raises(ExistsError, match="--overwrite"):
        quality(640, 501, out=tmp_path / "q", perceptual="none", device="cpu")
    quality(640, 501, out=tmp_path / "q", overwrite=True, **options)
    assert set(nnunet_raw.find(641).cases()["case"]) == kept


def test_a_classifiers_features_count(
    home: Path, synthetic: RawDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = home / "datasets/classification/Dataset501_PHANTOM"
    train_classifier(pictures, out=tmp_path / "run", epochs=1, resolution=32, batch=4, precision="fp32")
    options = {"trainer": "none", "perceptual": "none", "device": "cpu", "as_json": True}
    capsys.readouterr()
    quality(640, 501, tmp_path / "run", count=4, rate=0.9, out=tmp_path / "q", **options)
    result = read_json(tmp_path / "q/quality.json")
    assert printed(capsys, "quality", tmp_path / "q") == {k: v for k, v in result.items() if k != "settings"}
    assert result["features"]["unseen_real"]["frechet_distance"] > 0
    assert set(result["privacy"]["limits"]) == {"pixels", "features"}
    assert pd.read_csv(tmp_path / "q/quality.csv")["similarity_in_features"].between(-1, 1).all()


def test_without_a_classifier_a_segmenter_and_optional_packages_the_rest_remains(
    home: Path,
    synthetic: RawDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(perceptual_networks, "find_spec", lambda name: None)
    quality(640, 501, trainer="nnUNetTrainerEchoSynth", count=4, rate=0.5, out=tmp_path / "q", device="cpu")
    assert "diversity is left out; install it with: pip install 'echosynth[perceptual]'" in capsys.readouterr().err
    result = read_json(tmp_path / "q/quality.json")
    assert {"privacy", "texture", "intensity"} <= set(result)
    assert not {"features", "agreement", "diversity"} & set(result)
    assert {"quality.png", "nearest.png", "quality.csv"} <= {p.name for p in (tmp_path / "q").iterdir()}


def test_bad_input_is_named(home: Path, synthetic: RawDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 validation images cannot set such a threshold"):
        quality(
            640, 501, rate=0.05, features=False, perceptual="none", out=tmp_path / "r", device="cpu", trainer="none"
        )
    assert not (tmp_path / "r").exists()
    with pytest.raises(DataError, match="leave out --count"):
        quality(640, 501, count=4, drop=642, device="cpu")
    masks = _masks(synthetic, tmp_path / "masks", synthetic.cases()["case"].iloc[0])
    sorted(masks.iterdir())[0].unlink()
    with pytest.raises(DataError, match="no prediction for"):
        quality(640, 501, predictions=masks, perceptual="none", rate=0.5, out=tmp_path / "q", device="cpu")
    assert not (tmp_path / "q").exists()
