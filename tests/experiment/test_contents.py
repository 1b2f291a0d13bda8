"""What is done is of the inputs that are there: changed ones are refused, before a sweep and before each stage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from echo_synth import checksums, specs
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError
from echo_synth.experiment.cells import build_cells
from echo_synth.experiment.commands import StageCommands
from echo_synth.experiment.contents import check_contents, check_unchanged, contents_known
from echo_synth.experiment.inputs import SweepInputs, find_inputs
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Stage
from echo_synth.experiment.workspace import Workspace
from echo_synth.files import write_json
from tests.experiment.sweeps import GRID


def _spec_with_maps(maps: Path) -> SweepSpec:
    return SweepSpec.model_validate(GRID | {"maps": str(maps), "models": {"edm-l64": {"nfe": [1]}}})


def _begun(out: Path, inputs: SweepInputs) -> None:
    """settings.json as a call of sweep leaves it."""
    told = {"contents": inputs.contents, "fingerprints": inputs.fingerprints}
    write_json(out / "settings.json", told | {"known_contents": contents_known(out, inputs)})


@pytest.mark.parametrize("what", ["real", "maps"])
def test_other_pixels_under_the_same_names_are_refused(what: str, home: Path, tmp_path: Path) -> None:
    """cases.csv and index.parquet, which name the stages, stay as they are where only masks are drawn anew."""
    raw, maps = tmp_path / "raw", tmp_path / "maps"
    dataset = nnunet_raw.find(501).path
    shutil.copytree(dataset, raw / dataset.name)
    shutil.copytree(home / "maps" / "Dataset501_PHANTOM", maps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(raw))
        inputs = find_inputs(_spec_with_maps(maps))
        out = tmp_path / "sweep"
        out.mkdir()
        check_contents(out, inputs)  # nothing was begun
        write_json(out / "settings.json", {"contents": inputs.contents, "fingerprints": inputs.fingerprints})
        check_contents(out, inputs)
        changed = raw / dataset.name if what == "real" else maps
        first = sorted(changed.rglob("*.nii.gz") if what == "real" else changed.glob("*.png"))[0]
        first.write_bytes(first.read_bytes() + b"x")
        checksums.record(changed)
        with pytest.raises(DataError, match=f"{changed}: has other images or masks .* choose another --out"):
            check_contents(out, find_inputs(_spec_with_maps(maps)))


def test_what_earlier_calls_met_is_not_forgotten(home: Path, tmp_path: Path) -> None:
    """Data A, then B, then A with other masks: stages of the first A were taken for those of the last."""
    inputs = find_inputs(SweepSpec.model_validate(GRID | {"models": {}}))

    def of(name: str, content: str) -> SweepInputs:
        return replace(inputs, fingerprints={"real": name, "maps": "m"}, contents={"real": content, "maps": None})

    for met in (of("a", "first"), of("b", "second")):
        check_contents(tmp_path, met)
        _begun(tmp_path, met)
    check_contents(tmp_path, of("a", "first"))
    with pytest.raises(DataError, match="content first, now third"):
        check_contents(tmp_path, of("a", "third"))


@pytest.fixture
def drawing(tmp_path: Path) -> tuple[SweepSpec, Path]:
    """A sweep of a run of one's own, and the folder of this run."""
    runs = tmp_path / "runs"
    for name in ("edm-l64", "gamma-vae-64"):
        shutil.copytree(specs.root() / "bundled" / name, runs / name)
    rows = {"edm-l64": {"nfe": [4], "checkpoint": str(runs / "edm-l64")}}
    return SweepSpec.model_validate(GRID | {"models": rows, "cells": {}, "reference": None}), runs


def _data_stage(spec: SweepSpec, inputs: SweepInputs) -> Stage:
    return build_cells(spec, inputs.fingerprints, inputs.solvers, inputs.levels)[0].stages[0]


def test_another_texture_of_the_same_weights_is_refused(
    drawing: tuple[SweepSpec, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """generate adds it to every image, but weights alone name the stages."""
    spec, runs = drawing
    monkeypatch.setattr("echo_synth.runs.find.runs", lambda: runs)
    inputs = find_inputs(spec)
    _begun(tmp_path, inputs)
    check_contents(tmp_path, find_inputs(spec))
    check_unchanged(_data_stage(spec, inputs), inputs)
    (runs / "gamma-vae-64/texture.safetensors").unlink()
    without = find_inputs(spec)
    assert _data_stage(spec, without).key == _data_stage(spec, inputs).key
    with pytest.raises(DataError, match=r"models\.edm-l64: .* draws with another texture of its Γ-VAE"):
        check_contents(tmp_path, without)
    with pytest.raises(DataError, match=f"{runs / 'edm-l64'}: has changed since the sweep was planned"):
        check_unchanged(_data_stage(spec, inputs), inputs)


@pytest.mark.parametrize("what", ["levels", "weights", "maps"])
def test_a_stage_is_not_made_from_what_changed_after_the_sweep_was_planned(
    what: str, drawing: tuple[SweepSpec, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lie under the hash of the former input, for all later calls."""
    spec, runs = drawing
    monkeypatch.setattr("echo_synth.runs.find.runs", lambda: runs)
    maps = tmp_path / "maps"
    shutil.copytree(home / "maps" / "Dataset501_PHANTOM", maps)
    spec = spec.model_copy(update={"maps": maps})
    study = {"recommended": {}, "schedules": {"4": {"solver": "euler", "sigmas": [9, 5, 2, 1]}}}
    write_json(runs / "edm-l64/solvers.json", study)
    inputs = find_inputs(spec)
    stage, out = _data_stage(spec, inputs), tmp_path / "sweep"
    check_unchanged(stage, inputs)
    if what == "levels":
        study["schedules"]["4"]["sigmas"] = [9, 5, 3, 1]  # type: ignore[index]
        write_json(runs / "edm-l64/solvers.json", study)
    elif what == "weights":
        weights = runs / "edm-l64/model.safetensors"
        weights.write_bytes(weights.read_bytes() + b"x")
    else:
        (maps / "index.parquet").write_bytes(b"other")
    workspace = Workspace(out, inputs.real)
    monkeypatch.setattr(Runner, "_execute", lambda *_: pytest.fail("made from other inputs"))
    with pytest.raises(DataError, match="has changed since the sweep was planned; run the sweep again"):
        Runner(workspace, StageCommands(workspace, inputs, "cpu")).run(stage)
    assert not workspace.done(stage)
