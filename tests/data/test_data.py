"""CAMUS to nnU-Net: millimetres, splits, sector, and every kind of bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import ndimage

from cli.data_commands import convert_camus
from echo_synth.data import nnunet_raw
from echo_synth.data.camus import assign_splits, find_cases, find_database, read_cfg, read_info
from echo_synth.data.nifti import read_image, write_image
from echo_synth.data.resize import rescale_spacing, resize_image, resize_labels, resize_mask
from echo_synth.data.tissues import sector_mask, tissue_map
from echo_synth.errors import DataError, EchoSynthError, ExistsError
from tests.analytic import count_holes_and_components, disc


@pytest.fixture
def fresh(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the phantom to damage, and an empty ECHOSYNTH_HOME."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    shutil.copytree(phantom, tmp_path / "ph")
    return tmp_path / "ph"


def _convert(source: Path, **options: object) -> None:
    convert_camus(source, 501, split=str(source / "database_split"), workers=1, **options)  # type: ignore[arg-type]


def _case(source: Path, name: str) -> Path:
    return source / "database_nifti" / name[:11] / name


def test_resizing_keeps_millimetres() -> None:
    mask = disc(301, (150, 150), 60)[:, 20:270]
    small = resize_labels(mask.astype(np.uint8), (256, 256))
    spacing = rescale_spacing((0.3, 0.4), mask.shape, (256, 256))
    assert small.sum() * spacing[0] * spacing[1] == pytest.approx(mask.sum() * 0.3 * 0.4, rel=0.01)


def test_small_structures_keep_their_area() -> None:
    for radius in (3, 4, 5.5, 7):
        for shift in np.linspace(0, 1, 5):
            labels = np.zeros((224, 224), np.uint8)
            labels[disc(224, (100, 100), 60)] = 2
            labels[disc(224, (180 + shift, 100), radius)] = 3
            resized = resize_mask(labels, (256, 256))
            for value in (2, 3):
                share = (resized == value).mean() / (labels == value).mean()
                assert share == pytest.approx(1, abs=0.01 + 0.6 / (resized == value).sum())
            assert ndimage.label(resized == 3)[1] == 1


def test_shrinking_averages_and_growing_interpolates() -> None:
    stripes = np.tile([0.0, 200.0], (8, 4))
    assert np.allclose(resize_image(stripes, (8, 4)), 100)  # area: no aliasing
    ramp = np.tile(np.arange(8.0), (8, 1))
    grown = resize_image(ramp, (8, 16))
    assert np.allclose(np.diff(grown[0, 1:-1]), 0.5, atol=1e-5)


def test_sector_fills_holes_and_drops_islands() -> None:
    image = disc(64, (32, 32), 20).astype(np.uint8) * 90
    image[30:33, 30:33] = 0  # a dark cavity
    image[2:4, 2:4] = 255  # a burnt-in mark
    sector = sector_mask(image)
    assert np.array_equal(sector, disc(64, (32, 32), 20))
    assert count_holes_and_components(image > 0) == (1, 2)
    assert count_holes_and_components(sector) == (0, 1)


def test_tissue_map_clips_to_the_sector() -> None:
    labels = np.full((8, 8), 2)
    labels[:, :4] = 0
    sector = np.ones((8, 8), bool)
    sector[0] = False
    tissues = tissue_map(labels, sector)
    assert set(np.unique(tissues[0])) == {0}
    assert set(np.unique(tissues[1:])) == {2, 4}


def test_converted_dataset_is_whole(home: Path, phantom: Path) -> None:
    dataset = nnunet_raw.find(501)
    cases = dataset.cases()
    assert cases["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}
    assert cases.groupby("patient")["split"].nunique().eq(1).all()
    fold = json.loads((dataset.path / "splits_final.json").read_text())[0]
    assert not {c[:11] for c in fold["train"]} & {c[:11] for c in fold["val"]}
    for row in cases.itertuples():
        label = sitk.ReadImage(str(dataset.label_path(row.case, row.split)))
        image = sitk.ReadImage(str(dataset.image_path(row.case, row.split)))
        assert label.GetDimension() == 2
        assert label.GetSize() == image.GetSize() == (256, 256)
        assert np.allclose(label.GetSpacing(), image.GetSpacing())
        source = read_image(_case(phantom, f"{row.case}_gt.nii.gz"))
        ours = sitk.GetArrayFromImage(label)
        for value in (1, 2, 3):
            here = (ours == value).sum() * np.prod(label.GetSpacing())
            there = (source.pixels == value).sum() * np.prod(source.spacing)
            assert here == pytest.approx(there, rel=0.02)
    required = {"channel_names", "labels", "numTraining", "file_ending", "overwrite_image_reader_writer"}
    assert set(json.loads((dataset.path / "dataset.json").read_text())) == required
    pictures = home / "datasets/classification" / dataset.name
    assert len(list(pictures.rglob("*.png"))) == 20
    assert cases["ef"].between(5, 90).all()
    assert cases["quality"].isin(["Good", "Medium", "Poor"]).all()


@pytest.mark.slow
def test_native_grid_is_kept(fresh: Path) -> None:
    _convert(fresh, native=True)
    case = nnunet_raw.find(501).cases().iloc[0]
    assert (case["rows"], case["columns"]) == (case["native_rows"], case["native_columns"])
    assert case["spacing_row_mm"] == pytest.approx(0.308)


def test_half_sequences_and_citations_are_ignored(fresh: Path) -> None:
    folder = fresh / "database_nifti/patient0001"
    (folder / "MANDATORY_CITATION.md").write_text("cite")
    shutil.copy(folder / "patient0001_2CH_ED.nii.gz", folder / "patient0001_2CH_half_sequence.nii.gz")
    assert len(find_cases(find_database(fresh))) == 20


@pytest.mark.slow
def test_both_releases_agree(tmp_path: Path) -> None:
    from echo_synth.phantom import write_phantom

    write_phantom(tmp_path / "a", 1, 5, "nifti", {}, workers=1)
    write_phantom(tmp_path / "b", 1, 5, "mhd", {}, workers=1)
    new, old = find_database(tmp_path / "a"), find_database(tmp_path / "b")
    for one, two in zip(find_cases(new), find_cases(old), strict=True):
        a, b = read_image(one.mask), read_image(two.mask)
        for label in (1, 2, 3):
            area = [(p.pixels == label).sum() * p.spacing[0] * p.spacing[1] for p in (a, b)]
            assert area[1] == pytest.approx(area[0], rel=0.01)
    facts = [read_info(d.patients["patient0001"], "2CH") for d in (new, old)]
    assert facts[0]["ef"] == pytest.approx(facts[1]["ef"], abs=0.5)
    assert facts[1]["edv"] > facts[1]["esv"]


def _delete_mask(source: Path) -> None:
    _case(source, "patient0002_4CH_ES_gt.nii.gz").unlink()


def _truncate(source: Path) -> None:
    path = _case(source, "patient0001_2CH_ED.nii.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def _set_label(value: int, everywhere: bool = False):  # type: ignore[no-untyped-def]
    def damage(source: Path) -> None:
        path = _case(source, "patient0001_4CH_ED_gt.nii.gz")
        image = sitk.ReadImage(str(path))
        pixels = sitk.GetArrayFromImage(image)
        pixels[:] = value if everywhere else pixels
        pixels[5, 5] = value
        other = sitk.GetImageFromArray(pixels)
        other.CopyInformation(image)
        sitk.WriteImage(other, str(path))

    return damage


def _other_size(source: Path) -> None:
    path = _case(source, "patient0001_2CH_ES_gt.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(path))[:-3, :], str(path))


def _unknown_patient(source: Path) -> None:
    with open(source / "database_split/subgroup_training.txt", "a") as f:
        f.write("patient0999\n")


def _twice(source: Path) -> None:
    with open(source / "database_split/subgroup_training.txt", "a") as f:
        f.write("patient0005\n")


def _unlisted(source: Path) -> None:
    shutil.copytree(source / "database_nifti/patient0001", source / "database_nifti/patient0777")


def _bad_cfg(source: Path) -> None:
    _case(source, "patient0001_2CH_ED.nii.gz").with_name("Info_2CH.cfg").write_text("ED: one\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_delete_mask, "mask patient0002_4CH_ES_gt.nii.gz is missing"),
        (_truncate, "patient0001_2CH_ED.nii.gz: damaged"),
        (_set_label(7), r"label 7 found, expected \[0, 1, 2, 3\]"),
        (_set_label(0, everywhere=True), "the mask is empty"),
        (_other_size, "its image patient0001_2CH_ES.nii.gz is"),
        (_unknown_patient, r"not on disk \(patient0999\)"),
        (_twice, "patient0005 is listed twice"),
        (_unlisted, r"in no list of .* \(patient0777\)"),
        (_bad_cfg, "ED is 'one', expected int"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_bad_input_is_named_and_nothing_is_left(fresh: Path, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(fresh)
    with pytest.raises(EchoSynthError, match=message) as caught:
        _convert(fresh)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


@pytest.mark.slow
def test_missing_cases_can_be_left_out(fresh: Path) -> None:
    _delete_mask(fresh)
    _convert(fresh, allow_missing=True)
    assert len(nnunet_raw.find(501).cases()) == 19


@pytest.mark.slow
def test_existing_id_is_kept_unless_asked(fresh: Path) -> None:
    _convert(fresh)
    before = nnunet_raw.find(501).path
    with pytest.raises(ExistsError, match="dataset id 501 is taken"):
        _convert(fresh)
    with pytest.raises(ExistsError, match="choose another --dataset-id"):
        _convert(fresh, name="OTHER", overwrite=True)
    _convert(fresh, overwrite=True)
    assert nnunet_raw.find(501).path == before


def test_wrong_ids_and_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 1 to 999"):
        nnunet_raw.check_id(1000)
    with pytest.raises(DataError, match="is this CAMUS"):
        find_database(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        find_database(tmp_path / "absent")


def test_no_permission_is_named_before_any_work(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "os.access", lambda *a, **k: False
    )  # root may write anywhere, so the system's answer is replaced
    with pytest.raises(DataError, match="no permission to write"):
        _convert(fresh)
    assert not (tmp_path / "home").exists()


def test_full_disk_is_named(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("echo_synth.data.convert.write_image", full)
    with pytest.raises(DataError, match="no space left on the device"):
        _convert(fresh)
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


def test_a_patient_in_no_split_can_be_left_out() -> None:
    split = {"train": ["patient0001"], "val": [], "test": ["patient0009"]}
    with pytest.raises(DataError, match="not on disk"):
        assign_splits(["patient0001", "patient0002"], split)
    assert assign_splits(["patient0001", "patient0002"], split, allow_missing=True) == {"patient0001": "train"}


@pytest.mark.slow
def test_errors_reach_the_terminal_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "convert-camus", str(tmp_path), "--dataset-id", "501"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_real_camus_release(camus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Native float32 NIfTI and the older .mhd of the same patient agree in mm² to a few percent."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    convert_camus(camus / "native_4ch", 502, allow_missing=True, workers=1)
    convert_camus(camus / "legacy_mhd", 503, allow_missing=True, workers=1)
    native, legacy = (nnunet_raw.find(i) for i in (502, 503))
    assert len(native.cases()) == 24
    assert len(legacy.cases()) == 8
    shared = set(native.cases()["case"]) & set(legacy.cases()["case"])
    assert shared
    for case in shared:
        areas = []
        for dataset in (native, legacy):
            label = read_image(dataset.label_path(case, "train"))
            areas.append([(label.pixels == v).sum() * label.spacing[0] * label.spacing[1] for v in (1, 2, 3)])
        assert np.allclose(areas[0], areas[1], rtol=0.05)


def test_cfg_of_both_releases(camus: Path) -> None:
    old = read_cfg(camus / "legacy_mhd/patient0001/Info_2CH.cfg")
    new = read_cfg(camus / "database_nifti/patient0001/Info_2CH.cfg")
    assert {"LVedv", "LVesv", "LVef"} <= set(old)
    assert {"EF", "FrameRate"} <= set(new)
    assert old["Age"] == new["Age"]


def test_cases_csv_reads_back(home: Path) -> None:
    table = pd.read_csv(nnunet_raw.find(501).path / "cases.csv")
    assert {"case", "patient", "view", "phase", "split", "sex", "age", "quality", "ef", "sector_area_mm2"} <= set(table)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_full_disk_is_noticed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x.nii.gz"
    file.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_image(file, np.ones((64, 64), np.uint8), (1.0, 1.0))
    assert caught.value.filename == str(file)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_split_beside_the_data_is_found(fresh: Path) -> None:
    convert_camus(fresh, 501, workers=1)
    assert nnunet_raw.find(501).cases()["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}
    with pytest.raises(DataError, match="the official split lists"):
        convert_camus(fresh, 502, split="official", workers=1)
