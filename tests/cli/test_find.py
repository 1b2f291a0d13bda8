"""list and doctor: what is there, what is not whole, what is broken and how it is mended."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from echo_synth import doctor, inventory, specs
from echo_synth.files import write_json
from echo_synth.home import plugin_folder
from echo_synth.runs.folder import Run


def _run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_an_empty_home_says_what_makes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "none"))
    assert "echosynth demo" in _run("list")
    assert json.loads(_run("list", "--json")) == []
    assert not (tmp_path / "none").exists()


def test_datasets_and_maps_are_listed_with_what_they_came_from(home: Path) -> None:
    entries = {(e["kind"], e["name"]): e for e in json.loads(_run("list", "--json"))}
    data, maps = entries["datasets", "Dataset501_PHANTOM"], entries["maps", "Dataset501_PHANTOM"]
    assert (data["what"], data["count"], data["state"]) == ("real, converted", 20, "")
    assert (maps["count"], maps["made_from"]) == (32, "Dataset501_PHANTOM")
    assert data["size"] > 100_000
    lines = _run("list", "datasets").splitlines()
    assert lines[:2] == ["datasets", "  Dataset501_PHANTOM"]
    assert all(len(line) <= 80 for line in lines)
    assert "expected datasets, maps" in _run("list", "nonsense", code=2)


def test_what_is_not_whole_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    cut = tmp_path / "nnunet/raw/Dataset601_EDM-L64_nfe2"
    (cut / "imagesTr").mkdir(parents=True)
    (cut / "imagesTr/a_0000.nii.gz").touch()
    (cut / "settings.json").write_text('{"command": "generate", "model": "edm-l64", "nfe": 2, "count": 4}')
    for name, text in (("lying", "[1, 2"), ("foreign", '{"kind": "diffusion"}')):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "model.json").write_text(text)
    (tmp_path / "runs" / "file").touch()
    found = {e.name: e for e in inventory.inventory()}
    assert found["Dataset601_EDM-L64_nfe2"].state == "unfinished: 1 of 4 images"
    assert found["Dataset601_EDM-L64_nfe2"].what == "synthetic, edm-l64 NFE 2"
    assert {n for n, e in found.items() if e.what == "damaged"} == {"lying", "foreign"}
    assert "model.json" in found["lying"].state
    _run("list")


def test_sweeps_are_listed_with_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    for name, states in (("begun", []), ("half", ["done", "2/5"]), ("whole", ["done", "done"])):
        folder = tmp_path / "sweeps" / name
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text('{"command": "sweep", "spec": {"real": 501}, "maps": "made/maps/MAPS"}')
        if states:
            rows = "".join(f"c{i},{state}\n" for i, state in enumerate(states))
            (folder / "results.csv").write_text(f"cell,state\n{rows}")
    found = {e.name: e for e in inventory.inventory(["results"])}
    assert {(e.what, e.made_from) for e in found.values()} == {("sweep", "MAPS")}
    assert {name: e.state for name, e in found.items()} == {
        "begun": "unfinished: no cell is done",
        "half": "unfinished: 1 of 2 cells",
        "whole": "",
    }


def test_doctor_finds_a_whole_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    findings = {f["what"]: f for f in json.loads(_run("doctor", "--json"))}
    assert not [f for f in findings.values() if f["state"] == doctor.BROKEN]
    assert findings["device"]["state"] == doctor.OK
    assert findings["ECHOSYNTH_HOME"]["found"].endswith("will be made")
    assert findings["bundled edm-l64"]["found"].endswith("trained on phantoms")
    assert findings["trained models"]["found"] == "none yet (optional)"
    assert findings["trained models"]["mend"].startswith("to train: echosynth convert-camus FOLDER --dataset-id 501")
    assert not [name for name in findings if name.startswith("trained ") and name != "trained models"]
    assert not (tmp_path / "home").exists()


def test_doctor_names_what_is_broken_and_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    monkeypatch.setattr(doctor, "_NEEDED", ("torch", "no-such-package"))
    text = _run("doctor", code=1)
    assert f"broken  nnUNet_raw: {tmp_path / 'file'}: no folder that can be written" in text
    assert "export nnUNet_raw=a folder of yours" in text
    assert "broken  no-such-package: not installed" in text
    assert 'eval "$(echosynth env)"' in text


def test_doctor_takes_trainers_of_ones_own_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the FAQ has it: nnUNet_extTrainer may name several folders."""
    for beside, state in ((str(plugin_folder()), doctor.OK), (str(tmp_path / "others"), doctor.MISSING)):
        monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([beside, str(tmp_path)]))
        assert doctor._plugin().state == state


def test_doctor_names_the_next_step_of_a_first_training(home: Path) -> None:
    findings = {f["what"]: f for f in json.loads(_run("doctor", "--json"))}
    assert findings["trained models"]["mend"] == "to train: echosynth train-vae --model gamma-vae-64 --dataset-id 501"


def test_doctor_does_not_promise_folders_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "unmounted").symlink_to(tmp_path / "nowhere" / "disk")
    for home, told in (
        (tmp_path / "file/home", f"cannot be made in {tmp_path / 'file'}"),
        (tmp_path / "unmounted", "no folder that can be written"),
        (tmp_path / "unmounted/home", f"cannot be made in {tmp_path / 'unmounted'}"),
    ):
        monkeypatch.setenv("ECHOSYNTH_HOME", str(home))
        findings = {f.what: f for f in doctor._folders()}
        assert (findings["ECHOSYNTH_HOME"].state, told in findings["ECHOSYNTH_HOME"].found) == (doctor.BROKEN, True)
        assert next(doctor._room()).what == "disk"


def test_doctor_goes_on_where_a_run_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    runs = tmp_path / "runs"
    shutil.copytree(specs.root() / "bundled" / "edm-l64", runs / "private")

    def hash_(run: Run) -> str:
        if run.folder == runs / "private":
            raise PermissionError(13, "Permission denied", str(run.weights))
        return "abc"

    monkeypatch.setattr(Run, "hash", hash_)
    findings = {f.what: f for f in doctor._weights()}
    assert findings["trained edm-l64"].state == doctor.BROKEN
    assert "private/model.safetensors: no permission" in findings["trained edm-l64"].found


def test_a_mixture_of_very_many_cases_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    folder = tmp_path / "nnunet/raw/Dataset701_MIX"
    case = {
        "images": ["../Dataset601_Noise/imagesTr/" + "x" * 100],
        "label": "../Dataset601_Noise/labelsTr/" + "x" * 100,
    }
    described = {"numTraining": 20000, "dataset": {f"case{i}": case for i in range(20000)}}
    write_json(folder / "dataset.json", described)
    write_json(folder / "settings.json", {"command": "mix-datasets"})
    assert [(e.what, e.count, e.state) for e in inventory.inventory({"datasets"})] == [("mixture", 20000, "")]
