"""A dataset is completed from the same maps, in folders of its own, by one process at a time; what is lost comes back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cli.generate_commands import generate, noise_dataset
from echo_synth import specs
from echo_synth.claims import claim
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import open_maps, read_map, write_map
from echo_synth.errors import EchoSynthError, ExistsError, HeldError, LeakageError, RunError
from echo_synth.generation.engine import ImageGenerator
from echo_synth.generation.noise import NoiseTextures
from echo_synth.generation.request import plan_from
from echo_synth.generation.shards import WHOLE, Shard, hold_shard
from echo_synth.generation.targets import PREVIEW, TargetRequest, check_ours, make_target
from echo_synth.runs.folder import open_run
from echo_synth.verification.verify import verify

pytestmark = pytest.mark.slow

BUNDLED = specs.root() / "bundled"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED / "maps", tmp_path / "maps"))


def _draw(dataset_id: int | None = 601, count: int = 10, maps: Path | None = None, **options: object) -> Path:
    noise_dataset(maps, count, dataset_id=dataset_id, **options)  # type: ignore[arg-type]
    return nnunet_raw.find(dataset_id or 601).path


def _digest(*folders: Path) -> dict[str, str]:
    files = [p for f in folders for p in sorted(f.rglob("*")) if p.is_file() and p.name != "settings.json"]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_labels_and_pictures_that_were_lost_are_restored_without_drawing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _draw()
    pictures = home / "datasets" / "classification" / folder.name
    before = _digest(folder, pictures)
    next((folder / "labelsTr").iterdir()).unlink()
    next(pictures.rglob("*.png")).unlink()
    (folder / PREVIEW).unlink()

    def never(*_: object) -> None:
        raise AssertionError("nothing is to be drawn")

    monkeypatch.setattr(NoiseTextures, "draw", never)
    _draw()
    assert _digest(folder, pictures) == before


@pytest.mark.parametrize("kept", [0, 100])
def test_cut_and_emptied_files_are_made_again(home: Path, kept: int) -> None:
    folder = _draw(count=4)
    pictures = home / "datasets" / "classification" / folder.name
    before = _digest(folder / "imagesTr", folder / "labelsTr", pictures)
    first = sorted(p.name for p in (folder / "labelsTr").iterdir())
    damaged = [folder / "labelsTr" / first[0], folder / "imagesTr" / first[1].replace(".nii", "_0000.nii")]
    for file in (*damaged, sorted(pictures.rglob("*.png"))[2]):
        os.truncate(file, kept)
    _draw(count=4)
    assert _digest(folder / "imagesTr", folder / "labelsTr", pictures) == before


def test_another_classification_folder_is_completed_too(home: Path, tmp_path: Path) -> None:
    folder = _draw()
    _draw(classification=tmp_path / "other")
    first = home / "datasets" / "classification" / folder.name
    names = {p.relative_to(first) for p in first.rglob("*.png")}
    assert {p.relative_to(tmp_path / "other") for p in (tmp_path / "other").rglob("*.png")} == names


def test_other_maps_at_the_same_place_are_refused(home: Path, maps: Path) -> None:
    folder = _draw(count=4, maps=maps)
    name = str(pd.read_parquet(folder / "manifest.parquet")["map"].iloc[0])
    tissues = read_map(maps / f"{name}.png").copy()
    tissues[tissues == 1] = 3
    write_map(maps / f"{name}.png", tissues)
    next((folder / "imagesTr").iterdir()).unlink()
    with pytest.raises(ExistsError, match="was made with maps_hash = "):
        _draw(count=4, maps=maps)


def test_the_same_maps_elsewhere_are_the_same(home: Path, maps: Path, tmp_path: Path) -> None:
    folder = _draw(count=4, maps=maps)
    next((folder / "imagesTr").iterdir()).unlink()
    before = len(list((folder / "labelsTr").iterdir()))
    _draw(count=4, maps=Path(shutil.move(maps, tmp_path / "moved")))
    assert len(list((folder / "imagesTr").iterdir())) == before


@pytest.mark.parametrize("lost", [PREVIEW, "manifest.parquet"])
def test_what_a_kill_at_the_end_leaves_is_completed_under_its_own_id(home: Path, lost: str) -> None:
    folder = _draw(None)
    (folder / lost).unlink()
    _draw(None)
    assert (folder / lost).is_file()
    assert not nnunet_raw.existing(602)


def test_a_killed_process_has_not_said_that_it_was_done(home: Path) -> None:
    folder = _draw(None)
    dead = {"token": "t", "process": 2**22 + 1, "boot": "x", "processes": "x", "started": "1"}
    (folder / ".echosynth-lock-0-of-1").write_text(json.dumps(dead))
    (folder / ".partial-0-of-1").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("echo_synth.claims.STALE_SECONDS", 0.5)
        _draw(None)
    assert not nnunet_raw.existing(602)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_the_second_process_hears_of_the_first(home: Path) -> None:
    folder = _draw()
    with hold_shard(folder, Shard(0, 1)), pytest.raises(HeldError, match=f"{folder.name}: in use by process"):
        _draw()
    with hold_shard(folder, Shard(0, 2)):
        with hold_shard(folder, Shard(1, 2)):
            pass
        with pytest.raises(HeldError, match="other shards"), hold_shard(folder, Shard(0, 3)):
            pass


def test_shards_that_take_over_dead_ones_do_not_refuse_each_other(home: Path) -> None:
    """Files that lie there for a moment, while a dead process's lock is taken over, are no shards."""
    folder = _draw()
    with hold_shard(folder, Shard(1, 8)):
        lock = folder / ".echosynth-lock-1-of-8"
        for moment in ("-takeover", "-0123abcd"):
            shutil.copy2(lock, folder / f"{lock.name}{moment}")
        with hold_shard(folder, Shard(2, 8)):
            pass


def test_another_count_is_named_as_such(home: Path) -> None:
    _draw(count=4)
    with pytest.raises(ExistsError, match="was made with count = 4, now 5"):
        _draw(count=5)


def test_two_datasets_that_are_begun_at_once_get_an_id_each(home: Path) -> None:
    names = [make_target(TargetRequest(None, "X", {"seed": s}), lambda _: {}).raw.name for s in (0, 1, 0)]
    assert names == ["Dataset601_X", "Dataset602_X", "Dataset601_X"]


def test_an_id_is_chosen_by_one_process_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo_synth.generation.targets._WAIT_SECONDS", 0.3)
    with claim(home / "nnunet" / "raw" / ".echosynth-lock"), pytest.raises(HeldError, match="raw: in use"):
        _draw(None)


def test_a_kill_at_the_very_start_leaves_nothing_in_the_way(home: Path) -> None:
    for folder in (
        home / "nnunet" / "raw" / "Dataset601_Noise",
        home / "datasets" / "classification" / "Dataset601_Noise",
    ):
        folder.mkdir(parents=True)
        (folder / ".partial-4194305-settings.json").write_text("{")
    assert (_draw(601, count=2) / PREVIEW).is_file()


def test_a_dataset_without_an_image_binds_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command failed before its first image; the id is free for another one."""
    with monkeypatch.context() as patch:
        patch.setattr("echo_synth.generation.run.generate", _refuse)
        with pytest.raises(RunError, match="damaged"):
            _draw(seed=1)
    _draw(seed=2, count=2)
    with pytest.raises(ExistsError, match="was made with seed = 2, now 1"):
        _draw(seed=1)


def _refuse(*_: object) -> None:
    raise RunError("damaged")


def test_an_empty_dataset_that_another_took_is_left_to_it(home: Path) -> None:
    mine, other = (TargetRequest(601, "X", {"seed": seed}) for seed in (1, 2))
    target = make_target(mine, lambda _: {})
    check_ours(target, mine)
    make_target(other, lambda _: {})
    with pytest.raises(HeldError, match="another command began it with other settings; choose another --dataset-id"):
        check_ours(target, mine)
    with hold_shard(target.raw, WHOLE), pytest.raises(ExistsError, match="was made with seed = 2"):
        make_target(mine, lambda _: {})


def test_pictures_are_not_mixed_with_others(home: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(ExistsError, match="holds other files than the pictures"):
        _draw(classification=tmp_path / "photos")
    other = _draw(602)
    with pytest.raises(ExistsError, match="holds other files than the pictures"):
        _draw(classification=home / "datasets" / "classification" / other.name)
    with pytest.raises(ExistsError, match="is inside"):
        _draw(classification=other.parent / "Dataset601_Noise" / "classes")
    assert not nnunet_raw.existing(601)


def test_pictures_of_an_earlier_dataset_of_the_name_are_not_mixed_in(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its raw dataset was removed, or is in another nnUNet_raw; what trains on the folder would take them for these."""
    folder = _draw(count=4)
    pictures = home / "datasets" / "classification" / folder.name
    before = _digest(pictures)
    shutil.rmtree(folder)
    with pytest.raises(ExistsError, match=r"Noise holds pictures of an earlier Dataset601_Noise.*remove that folder"):
        _draw(count=4, seed=1)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "elsewhere"))
    with pytest.raises(ExistsError, match="holds pictures of an earlier"):
        _draw(count=3)
    assert _digest(pictures) == before
    again = _draw(count=4)  # the same images
    assert verify(again).whole
    assert _digest(pictures) == before


def test_pictures_that_are_drawn_again_get_new_lines(home: Path) -> None:
    """Another machine, or one that is busy otherwise, may round otherwise."""
    folder = _draw(count=4)
    picture = next((home / "datasets" / "classification" / folder.name).rglob("*.png"))
    sums = (picture.parents[2] / "SHA256SUMS").read_text().splitlines()
    wrong = [f"{'0' * 64}  {line[66:]}" if picture.name in line else line for line in sums]
    (picture.parents[2] / "SHA256SUMS").write_text("\n".join(wrong) + "\n")
    (folder / "imagesTr" / f"{picture.stem}_0000.nii.gz").unlink()
    _draw(count=4)
    assert verify(folder).whole


def test_settings_name_the_folder_that_was_completed_last(home: Path, tmp_path: Path) -> None:
    folder = _draw(count=4)
    first = home / "datasets" / "classification" / folder.name
    next(first.rglob("*.png")).unlink()
    assert not verify(folder).whole
    _draw(count=4, classification=tmp_path / "other")
    assert json.loads((folder / "settings.json").read_text())["classification"] == str(tmp_path / "other")
    assert verify(folder).whole


def test_maps_of_patients_whom_the_models_dataset_holds_out_are_refused(home: Path) -> None:
    patient = open_maps(BUNDLED / "maps").index["patient"].iloc[0]
    columns = "case,patient,view,phase,split,rows,columns,spacing_row_mm,spacing_column_mm"
    rows = [
        f"{patient}_2CH_ED,{patient},2CH,ED,test,4,4,1.0,1.0",
        "patient9998_2CH_ED,patient9998,2CH,ED,train,4,4,1.0,1.0",
    ]
    folder = home / "nnunet" / "raw" / "Dataset501_CAMUS"
    folder.mkdir(parents=True)
    (folder / "cases.csv").write_text("\n".join([columns, *rows]) + "\n")
    plan_from(BUNDLED / "maps", 2, 0, "Dataset502_OTHER")
    with pytest.raises(LeakageError, match=str(patient)):
        plan_from(BUNDLED / "maps", 2, 0, "Dataset501_CAMUS")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_never_reaches_a_dataset(value: float) -> None:
    vae = open_run(BUNDLED / "gamma-vae-64", "vae").load()
    generator = ImageGenerator(open_run(BUNDLED / "edm-l64", "diffusion").load(), vae, "cpu", "fp32")
    tissues = np.full((1, 256, 256), 4, np.uint8)
    fields = torch.zeros(1, 1, 64, 64)
    assert generator.images(fields, tissues).min() >= 1
    with torch.no_grad():
        list(vae.decoder.parameters())[-1].fill_(value)
    with pytest.raises(RunError, match="decoder gave values that are not finite"):
        generator.images(fields, tissues)


def test_a_dry_run_estimates_and_makes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit):
        generate("edm-l64", 100, count=1000, precision="fp32", dry_run=True)
    told = capsys.readouterr().err
    assert "estimate: about" in told
    assert "MiB of disk" in told
    assert not home.exists()
    with pytest.raises(typer.Exit):  # eight images are one batch, and no shard 1 gets one
        generate("edm-l64", 500, count=8, dataset_id=650, shard="1/2", precision="fp32", dry_run=True)
    with pytest.raises(EchoSynthError):
        generate("edm-l64", 1, shard="a/b")
