"""import-images: folders of other programs become datasets like ours, or are refused in words that lead on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cli.import_commands import import_images
from cli.sweep_commands import sweep
from echo_synth.data import nnunet_raw
from echo_synth.data.facts import facts_in
from echo_synth.data.nnunet_raw import RawDataset, derive
from echo_synth.data.tables import read_manifest
from echo_synth.errors import DataError, ExistsError, LeakageError, SpecError
from echo_synth.foreign.layout import Pair
from echo_synth.foreign.names import Told, told_by
from echo_synth.verification.verify import verify
from tests.cli.terminal import ROOT
from tests.foreign import folders

Make = Callable[..., Path]


@pytest.fixture
def real(own_home: Path) -> RawDataset:
    return nnunet_raw.find(501)


@pytest.fixture(scope="module")
def left(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What SDM's script leaves."""
    source = next((converted / "nnunet/raw").glob("Dataset501_*"))
    return folders.sdm(tmp_path_factory.mktemp("left") / "in", RawDataset(source))


@pytest.fixture
def drawn(left: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(left, tmp_path / "in"))


def _import(folder: Path, **options: object) -> RawDataset:
    import_images(folder, 601, **{"real": 501, "workers": 1, **options})  # type: ignore[arg-type]
    return nnunet_raw.find(601)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "labels"),
    [(folders.sdm, "sector"), (folders.edmlx, "sector, stretched by 255/10"), (folders.annotated, "camus")],
)
def test_what_scripts_leave_comes_back_as_it_was(real: RawDataset, tmp_path: Path, make: Make, labels: str) -> None:
    dataset = _import(make(tmp_path / "in", real))
    cases = dataset.cases()
    own = real.cases()
    assert len(cases) == (own["split"] != "test").sum()
    for row in cases.itertuples():
        source, imported = (
            derive(real, str(row.source_case), "train", 256),
            derive(dataset, str(row.case), "train", 256),
        )
        assert np.array_equal(source.labels * source.sector, imported.labels * imported.sector)
        assert (source.sector == imported.sector).mean() > 0.999
        assert np.abs(source.image.astype(int) - imported.image).max() <= 3
        assert np.allclose(source.spacing, imported.spacing)
    splits = dict(zip(own["patient"], own["split"], strict=True))
    assert (cases["split"] == cases["patient"].map(splits)).all()
    assert facts_in(dataset.path)["labels"] == labels


@pytest.mark.slow
def test_the_folders_are_those_of_generate(real: RawDataset, drawn: Path) -> None:
    dataset = _import(drawn, model="sdm", nfe=1000)
    names = {p.name for p in dataset.path.iterdir()}
    assert {"imagesTr", "labelsTr", "dataset.json", "cases.csv", "manifest.parquet", "CARD.md", "preview.png"} <= names
    manifest = read_manifest(dataset.path / "manifest.parquet")
    assert set(manifest["image"]) == set(dataset.cases()["case"])
    pictures = real.path.parents[2] / "datasets/classification" / dataset.name
    assert {p.stem for p in pictures.rglob("*.png")} == set(dataset.cases()["case"])
    found = verify(dataset.path)
    assert (found.whole, found.recorded) == (True, True)
    assert (found.facts["model"], found.facts["nfe"], found.facts["source"]) == ("sdm", 1000, "simulated")


@pytest.mark.slow
def test_nnunet_takes_the_dataset(real: RawDataset, drawn: Path) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(_import(drawn).path), num_processes=1)


def test_a_table_says_what_names_do_not(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.beside(tmp_path / "in", real)
    with pytest.raises(DataError, match="neither its name nor a folder around it says the view"):
        _import(folder)
    count = len(list(folder.glob("*_mask.png")))
    own = real.cases()
    own = own[own["split"] != "test"].reset_index(drop=True)
    table = pd.DataFrame(
        {"image": [f"img{i:03d}.png" for i in range(count)], "view": own["view"], "phase": own["phase"]}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="nothing tells the size of its pixels; pass --spacing"):
        _import(folder, table=tmp_path / "t.csv")
    table.assign(patient="pat_1").to_csv(tmp_path / "u.csv", index=False)
    with pytest.raises(DataError, match=r"patient pat_1: '_' separates the parts .* write pat-1"):
        _import(folder, table=tmp_path / "u.csv", spacing="0.6,0.5")
    dataset = _import(folder, table=tmp_path / "t.csv", spacing="0.6,0.5")
    cases = dataset.cases()
    assert list(cases["view"]) == list(table["view"])
    assert cases["patient"].nunique() == count  # nobody knows whose they are
    assert set(cases["split"]) == {"train", "val"}
    assert (cases["spacing_row_mm"] == 0.6).all()
    assert (cases["spacing_column_mm"] == 0.5).all()
    table.head(count - 1).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=f"no row for img{count - 1:03d}.png"):
        _import(folder, table=tmp_path / "t.csv", spacing="0.6", overwrite=True)
    pd.concat([table, table.head(1).assign(image="img000.PNG")]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="names img000 twice"):
        _import(folder, table=tmp_path / "t.csv", spacing="0.6", overwrite=True)
    with pytest.raises(DataError, match=f"{tmp_path.name}: not a file"):
        _import(folder, table=tmp_path, spacing="0.6", overwrite=True)
    pd.concat([table, table.head(1).assign(image="img999")]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="names img999, of which there is no image"):
        _import(folder, table=tmp_path / "t.csv", spacing="0.6", overwrite=True)


def test_held_out_patients_are_refused_or_left_out(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.edmlx(tmp_path / "in", real, ("train", "val", "test"))
    held_out = nnunet_raw.test_patients(real)
    with pytest.raises(LeakageError, match=r"held-out.*Dataset501.*--drop-held-out"):
        _import(folder)
    assert not nnunet_raw.existing(601)
    dataset = _import(folder, drop_held_out=True)
    assert not set(dataset.cases()["patient"]) & held_out


def test_test_images_that_scripts_copy_are_refused_by_name(real: RawDataset, drawn: Path) -> None:
    folder = drawn
    for sub in ("samples", "labels"):
        first = sorted((folder / sub).iterdir())[0]
        first.rename(first.with_name(first.name.replace("training", "testing")))
    with pytest.raises(LeakageError, match="its name says that it is a test image"):
        _import(folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("unpaired", "has no mask in .*labels; pass --allow-missing"),
        ("size", "labels/.* is 128 x 128, its image is 256 x 256"),
        ("cut", "samples/.*damaged or not a readable PNG"),
        ("value", "labels/.*value 9 found, expected"),
        ("empty", "labels/.*the mask is empty"),
        ("dim", "samples/.*grey levels from 0 to 1, expected 0 to 255"),
        ("black", "samples/.*the image is empty"),
        ("colour", "labels/.*is in colour"),
        ("sixteen", "labels/.*16-bit grey"),
        ("pipe", "samples/.*not a regular file"),
    ],
)
def test_odd_files_are_named(real: RawDataset, drawn: Path, damage: str, says: str) -> None:
    folder = drawn
    image, mask = (sorted((folder / sub).iterdir())[-1] for sub in ("samples", "labels"))
    ids = np.asarray(Image.open(mask))[..., 0].copy()
    grey = np.asarray(Image.open(image))[..., 0]
    if damage == "unpaired":
        mask.unlink()
    elif damage == "size":
        Image.fromarray(ids[::2, ::2]).save(mask)
    elif damage == "cut":
        os.truncate(image, 2000)
    elif damage == "value":
        ids[0, 0] = 9
        Image.fromarray(ids).save(mask)
    elif damage == "empty":
        Image.fromarray(np.where(ids > 0, 2, 0).astype(np.uint8)).save(mask)
    elif damage in ("dim", "black"):
        Image.fromarray((grey > 0).astype(np.uint8) * (damage == "dim")).save(image)
    elif damage == "colour":
        Image.fromarray(np.stack([ids, ids, 0 * ids], 2)).save(mask)
    elif damage == "sixteen":
        Image.fromarray(ids.astype(np.uint16)).save(mask)
    elif damage == "pipe":
        image.unlink()
        os.mkfifo(image)
    with pytest.raises(DataError, match=says):
        _import(folder, labels="sector" if damage != "value" else "0=0,1=1,2=4,3=2,4=3")
    assert not nnunet_raw.existing(601)
    assert not list(real.path.parent.glob(".partial-*"))


def test_masks_that_show_no_heart_are_not_guessed_at(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.annotated(tmp_path / "in", real)
    for mask in folder.glob("*/annotations/training/*.png"):
        ids = np.asarray(Image.open(mask))
        Image.fromarray(np.asarray([0, 3, 1, 2], np.uint8)[ids]).save(mask)
    with pytest.raises(
        DataError, match=r"values \[0, 1, 2, 3\], in which no heart is recognised.*--labels VALUE=TISSUE"
    ):
        _import(folder)
    dataset = _import(folder, labels="0=0,3=1,1=2,2=3")
    row = next(dataset.cases().itertuples())
    source = derive(real, str(row.source_case), "train", 256)
    assert np.array_equal(
        source.labels * source.sector, derive(dataset, str(row.case), "train", 256).labels * source.sector
    )


def test_masks_of_64_bit_numbers_are_recognised_as_lost(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.edmlx(tmp_path / "in", real)
    with pytest.raises(DataError, match=r"every eighth column only.*visible_labels"):
        _import(folder, masks="raw_labels")


def test_images_without_black_around_them_need_a_background(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.annotated(tmp_path / "in", real)
    for image in folder.glob("*/images/training/*.png"):
        grey = np.asarray(Image.open(image))
        Image.fromarray(np.where(grey == 0, 3, np.maximum(grey, 5)).astype(np.uint8)).save(image)
    with pytest.raises(DataError, match=r"no pixel is black.*--background"):
        _import(folder)
    row = next(_import(folder, background=3).cases().itertuples())
    assert not derive(nnunet_raw.find(601), str(row.case), "train", 256).sector.all()


@pytest.mark.parametrize(
    ("name", "says"),
    [("x y_2CH_ED.png", "rename the file"), ("-2CH_ED.png", "rename the file"), ("a_2CH_4CH_ED.png", "2CH and 4CH")],
)
def test_names_that_cannot_be(real: RawDataset, tmp_path: Path, name: str, says: str) -> None:
    folder = folders.beside(tmp_path / "in", real)
    (folder / "img000.png").rename(folder / name)
    (folder / "img000_mask.png").rename(folder / name.replace(".png", "_mask.png"))
    for other in folder.glob("img*"):
        other.unlink()
    with pytest.raises(DataError, match=says):
        _import(folder)


@pytest.mark.parametrize(
    ("name", "folders_", "told"),
    [
        ("patient0007_4CH_ES_validation_3", (), Told("patient0007", "4CH", "ES", "val")),
        ("sample-12_A2C-ed_patient0123", (), Told("patient0123", "2CH", "ED", None)),
        ("phantom0009_2CH_ED_aug3_seed0", (), Told("phantom0009", "2CH", "ED", None)),
        ("0001", ("4CH_ES_augmented", "training"), Told(None, "4CH", "ES", "train")),
        ("x_2ch_7", ("4CH_ED",), Told(None, "2CH", "ED", None)),
        ("deed_2chx", (), Told(None, None, None, None)),
    ],
)
def test_what_names_tell(name: str, folders_: tuple[str, ...], told: Told) -> None:
    assert told_by(Pair(name, Path(f"{name}.png"), Path("m.png"), folders_)) == told


def test_two_images_of_one_name_are_refused(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.sdm(tmp_path / "in/a", real)
    shutil.copytree(folder, tmp_path / "in/b")
    with pytest.raises(DataError, match="another image is called"):
        _import(tmp_path / "in")


def test_files_that_would_be_one_image_are_refused(real: RawDataset, tmp_path: Path) -> None:
    folder = folders.beside(tmp_path / "in", real)
    shutil.copy(folder / "img000.png", folder / "img000.PNG")
    with pytest.raises(DataError, match=r"img000.(png|PNG): has the name of img000.(png|PNG) beside it; rename one"):
        _import(folder)


def test_an_empty_folder_says_what_is_expected(real: RawDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pair of image and mask.*samples/ with labels/"):
        _import(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        _import(tmp_path / "none")


@pytest.mark.slow
def test_overwrite_replaces_what_the_same_command_made(real: RawDataset, drawn: Path) -> None:
    folder = drawn
    _import(folder)
    with pytest.raises(ExistsError, match="pass --overwrite"):
        _import(folder)
    assert verify(_import(folder, overwrite=True).path).whole
    with pytest.raises(ExistsError):
        import_images(folder, 501, name="PHANTOM", overwrite=True, workers=1)


@pytest.mark.long  # tests/experiment/test_cells.py and test_sweep.py hold what a row is
@pytest.mark.slow
def test_imported_images_become_a_row_of_a_sweep(real: RawDataset, drawn: Path, tmp_path: Path) -> None:
    dataset = _import(drawn)
    spec = {
        "real": 501,
        "count": 1,
        "segmenter": None,
        "repeats": 20,
        "cells": {"real": {"kind": "real"}, "sdm": {"kind": "imported", "dataset": 601}},
        "classifier": {"epochs": 1, "resolution": 32},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec))
    sweep(tmp_path / "s.yaml", tmp_path / "out", device="cpu")
    table = pd.read_csv(tmp_path / "out/results.csv").set_index("cell")
    assert (table["state"] == "done").all()
    assert table.loc["sdm", "kind"] == "imported"
    assert table["accuracy"].between(0, 1).all()
    assert verify(dataset.path).whole
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**spec, "cells": {"x": {"kind": "imported"}}, "reference": "x"}))
    with pytest.raises(SpecError, match=r"cells.x.dataset: None; expected an id"):
        sweep(tmp_path / "s.yaml", tmp_path / "out2", device="cpu")


@pytest.mark.slow
def test_a_killed_import_leaves_nothing_and_can_be_repeated(real: RawDataset, drawn: Path) -> None:
    folder = drawn
    command = [sys.executable, "-m", "cli.main", "import-images", str(folder), "--real", "501", "--dataset-id", "601"]
    process = subprocess.Popen([*command, "--workers", "1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    written = real.path.parent / ".partial-Dataset601_Imported.new" / "imagesTr"
    until = time.monotonic() + 120
    while not (written.is_dir() and any(written.iterdir())) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not nnunet_raw.existing(601)
    assert verify(_import(folder).path).whole
    assert not list(real.path.parent.glob(".partial-*"))


def test_the_dry_run_writes_nothing(real: RawDataset, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit):
        _import(drawn, dry_run=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["labels"] == "sector"
    assert not nnunet_raw.existing(601)
