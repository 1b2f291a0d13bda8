"""verify: datasets and runs against what they were made as, by the command and by its exit code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.data_commands import mix_datasets
from cli.generate_commands import noise_dataset
from cli.main import app
from echo_synth import specs
from echo_synth.checksums import SUMS
from echo_synth.claims import claim, lock_in
from echo_synth.data import nnunet_raw
from echo_synth.data.facts import add_facts, facts_in
from echo_synth.errors import DataError, HeldError
from echo_synth.files import read_json
from echo_synth.inventory import inventory
from echo_synth.verification.verify import verify

BUNDLED = specs.root() / "bundled"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ECHOSYNTH_HOME with a dataset of noise; copied by those who damage it."""
    home = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSYNTH_HOME", str(home))
        noise_dataset(BUNDLED / "maps", 6, dataset_id=601)
    return home


@pytest.fixture
def dataset(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = (
        tmp_path / "moved"
    )  # elsewhere than settings.json says: the classification folder is found below the new home
    shutil.copytree(drawn, home)
    settings = home / "nnunet/raw/Dataset601_Noise/settings.json"
    settings.write_text(settings.read_text().replace(str(drawn), str(home)))
    monkeypatch.setenv("ECHOSYNTH_HOME", str(home))
    return settings.parent


def _pictures(dataset: Path) -> Path:
    return dataset.parents[2] / "datasets/classification" / dataset.name


def _flip(file: Path, at: int = -20) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def _run(*words: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["verify", *words, "--json"])
    return result.exit_code, json.loads(result.stdout)


def _found(folder: Path) -> set[tuple[str, str]]:
    return {(fault.kind, fault.file) for _, fault in verify(folder).faults}


def test_a_dataset_is_whole_with_its_pictures(dataset: Path) -> None:
    code, told = _run(str(dataset))
    assert (code, told["whole"], told["recorded"], told["faults"]) == (0, True, True, [])
    assert told["files"] > 6 * 3
    assert told["facts"]["model"] == "noise"


def test_one_flipped_byte_one_missing_and_one_extra_file(dataset: Path) -> None:
    image = sorted((dataset / "imagesTr").iterdir())[2]
    label = sorted((dataset / "labelsTr").iterdir())[4]
    picture = _pictures(dataset) / "train/2CH/extra.png"
    _flip(image)
    label.unlink()
    picture.touch()
    code, told = _run(str(dataset))
    assert code == 1
    assert {(f["kind"], f["file"]) for f in told["faults"]} == {
        ("altered", f"imagesTr/{image.name}"),
        ("missing", f"labelsTr/{label.name}"),
        ("extra", "train/2CH/extra.png"),
    }
    result = CliRunner().invoke(app, ["verify", str(dataset)])
    assert result.exit_code == 1
    assert f"altered: {image}\n" in result.stdout
    assert "not whole: 1 altered, 1 extra, 1 missing" in result.stdout


@pytest.mark.parametrize("name", ["dataset.json", "cases.csv", "manifest.parquet", "CARD.md", "preview.png"])
def test_tables_and_the_card_count(dataset: Path, name: str) -> None:
    _flip(dataset / name)
    assert ("altered", name) in _found(dataset)


def test_hostile_names_cannot_move_the_cursor(dataset: Path) -> None:
    (dataset / "imagesTr" / "x\n\x1b[2Jaltered: y").touch()
    result = CliRunner().invoke(app, ["verify", str(dataset)])
    assert "\x1b" not in result.stdout
    assert "x\\n\\x1b[2Jaltered: y" in result.stdout


def test_drawing_again_does_not_hide_damage_and_repairs_what_is_missing(dataset: Path) -> None:
    label, image = sorted((dataset / "labelsTr").iterdir())[0], sorted((dataset / "imagesTr").iterdir())[1]
    _flip(label, at=20)  # ends as it should, so that drawing again takes it for whole
    image.unlink()
    noise_dataset(BUNDLED / "maps", 6, dataset_id=601)
    assert _found(dataset) == {("altered", f"labelsTr/{label.name}")}


def test_without_a_record_files_are_read_to_their_ends(dataset: Path) -> None:
    for folder in (dataset, _pictures(dataset)):
        (folder / SUMS).unlink()
    described = json.loads((dataset / "dataset.json").read_text())
    del described["echosynth"]  # as earlier versions wrote it
    (dataset / "dataset.json").write_text(json.dumps(described))
    whole = verify(dataset)
    assert (whole.whole, whole.recorded) == (True, False)
    assert any("no SHA256SUMS" in note for note in whole.notes)
    image, label = sorted((dataset / "imagesTr").iterdir())[1], sorted((dataset / "labelsTr").iterdir())[1]
    _flip(image)
    label.unlink()
    (dataset / "labelsTr" / "extra.nii.gz").touch()
    picture = next(_pictures(dataset).rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-40])
    found = _found(dataset)
    assert found == {
        ("altered", f"imagesTr/{image.name}"),
        ("missing", f"labelsTr/{label.name}"),
        ("extra", "labelsTr/extra.nii.gz"),
        ("altered", str(picture.relative_to(_pictures(dataset)))),
    }


def test_a_record_that_was_there_and_is_gone_is_a_fault(dataset: Path) -> None:
    (dataset / SUMS).unlink()
    assert _found(dataset) == {("missing", SUMS)}


def test_a_record_of_the_pictures_that_is_gone_is_a_fault(dataset: Path) -> None:
    (_pictures(dataset) / SUMS).unlink()
    assert _found(dataset) == {("missing", SUMS)}


def test_an_interrupted_drawing_is_not_whole(dataset: Path) -> None:
    for name in (SUMS, "manifest.parquet", "preview.png"):
        (dataset / name).unlink()
    found = verify(dataset)
    assert not found.whole
    assert any("the same command continues it" in note for note in found.notes)


def test_what_is_being_drawn_is_refused(dataset: Path) -> None:
    with claim(lock_in(dataset)), pytest.raises(HeldError, match="in use by"):
        verify(dataset)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.touch()])
def test_other_things_are_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "thing")
    with pytest.raises(DataError, match="thing: "):
        verify(tmp_path / "thing")


def test_facts_that_are_added_later_are_no_damage(dataset: Path) -> None:
    privacy = {
        "real": "Dataset501_X",
        "images": 6,
        "rate": 0.05,
        "synthetic": {"flagged": 0, "images": 6, "share": 0.0},
    }
    assert add_facts(dataset, {"privacy": privacy})
    assert verify(dataset).whole
    assert "near copies among the synthetic images: 0 of 6" in (dataset / "CARD.md").read_text()
    noise_dataset(BUNDLED / "maps", 6, dataset_id=601)
    assert facts_in(dataset)["privacy"] == privacy
    assert verify(dataset).whole


def test_added_facts_change_no_training(dataset: Path) -> None:
    from echo_synth.data import facts
    from echo_synth.downstream.nnunet import content_of

    before = content_of(nnunet_raw.RawDataset(dataset)), facts.content_of(dataset)
    add_facts(dataset, {"privacy": {"images": 1}})
    assert (content_of(nnunet_raw.RawDataset(dataset)), facts.content_of(dataset)) == before


def test_converted_datasets_and_mixtures(own_home: Path) -> None:
    from echo_synth.data.facts import content_of, origin_of_dataset

    real = nnunet_raw.find(501).path
    found = verify(real)
    assert (found.whole, found.recorded) == (True, True)
    assert facts_in(real)["source"] == origin_of_dataset(real) == "simulated"
    noise_dataset(None, 4, dataset_id=601)
    mix_datasets(501, 701, synthetic=[601])
    with pytest.raises(
        DataError,
        match=r"Dataset601\w*: was made by 'echosynth noise-dataset', expected real images; is --real the other",
    ):
        mix_datasets(601, 702, synthetic=[501])
    with pytest.raises(
        DataError, match="Dataset501_PHANTOM: was made by 'echosynth convert-camus', expected synthetic images"
    ):
        mix_datasets(501, 702, synthetic=[501])
    mixture = nnunet_raw.find(701).path
    assert [e.count for e in inventory({"datasets"}) if "701" in e.name] == [
        read_json(mixture / "dataset.json")["numTraining"]
    ]
    assert facts_in(mixture)["of"] == {p.name: content_of(p) for p in (real, nnunet_raw.find(601).path)}
    assert verify(mixture).whole
    referred = nnunet_raw.RawDataset(mixture)
    row = next(r for r in referred.cases().itertuples() if str(r.source).startswith("Dataset601"))
    image = referred.image_path(str(row.case), "train")
    image.unlink()
    assert _found(mixture) == {("missing", str(image))}
    with pytest.raises(
        DataError, match=r"aug\d_seed0_0000\.nii\.gz: missing, although cases\.csv of Dataset601_Noise names"
    ):
        mix_datasets(501, 701, synthetic=[601], overwrite=True)
    (mixture / "settings.json").unlink()  # which has no hash itself
    found = verify(mixture)
    assert not found.recorded
    assert any("holds no hash of Dataset501_PHANTOM, Dataset601_Noise" in note for note in found.notes)


def test_a_classification_folder_by_itself(dataset: Path) -> None:
    assert verify(_pictures(dataset)).whole
    next(_pictures(dataset).rglob("*.png")).unlink()
    assert not verify(_pictures(dataset)).whole


def test_condition_maps(own_home: Path) -> None:
    maps = own_home / "maps/Dataset501_PHANTOM"
    verdict = verify(maps)
    assert (verdict.kind, verdict.faults, verdict.recorded) == ("maps", [], True)
    first, second, *_ = sorted(maps.glob("*.png"))
    _flip(first)
    second.unlink()
    shutil.copy(first, maps / "another.png")
    wanted = [("extra", "another.png"), ("altered", first.name), ("missing", second.name)]
    assert [(fault.kind, fault.file) for _, fault in verify(maps).faults] == wanted
    (maps / SUMS).unlink()  # as an earlier version left it: a flipped byte breaks the checksum of the PNG's data
    verdict = verify(maps)
    assert not verdict.recorded
    assert sorted((fault.kind, fault.file) for _, fault in verdict.faults) == sorted(wanted)


def test_bundled_runs_are_read_whole(tmp_path: Path) -> None:
    run = Path(shutil.copytree(BUNDLED / "gamma-vae-64", tmp_path / "run"))
    found = verify(run)
    assert (found.kind, found.whole, found.recorded) == ("run", True, False)
    os.truncate(run / "model.safetensors", 1000)
    assert ("altered", "model.safetensors") in _found(run)
    (run / "model.safetensors").unlink()
    assert ("missing", "model.safetensors") in _found(run)


@pytest.mark.slow
def test_a_run_is_recorded_when_it_ends_and_not_while_it_goes_on(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = "train-vae --model gamma-vae-64 --dataset-id 501 --size tiny --images 8 --batch 4 --perceptual none --precision fp32"
    assert CliRunner().invoke(app, [*words.split(), "--device", "cpu", "--out", str(out)]).exit_code == 0
    found = verify(out)
    assert (found.whole, found.recorded) == (True, True)
    assert json.loads((out / "data.json").read_text())["source"] == "simulated"
    _flip(out / "model.safetensors")
    assert _found(out) == {("altered", "model.safetensors")}
    longer = [*words.replace("--images 8", "--images 16").split(), "--device", "cpu", "--out", str(out), "--resume"]
    assert CliRunner().invoke(app, longer).exit_code == 0
    assert verify(out).whole
