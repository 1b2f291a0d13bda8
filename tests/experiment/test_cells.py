"""Cells and stages: which there are, what names them, what a change redoes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from echo_synth.errors import SpecError
from echo_synth.experiment.cells import build_cells, choose_cells, repeats_of
from echo_synth.experiment.spec import SweepSpec
from tests.experiment.sweeps import FINGERPRINTS, GRID, cells_of, keys_of, runner_in


def test_the_grid_has_a_cell_for_each_combination() -> None:
    cells = cells_of({"seeds": [0, 1]})
    assert {
        "edm-l64_nfe5_seed0",
        "edm-l64_nfe5_seed1",
        "edm-l64_nfe20_seed0",
        "edm-l64_nfe20_seed1",
        "real",
        "mixed",
    } == set(cells)
    assert [s.kind for s in cells["real"].stages] == ["data", "segmenter", "predict", "classifier", "evaluate"]
    assert [s.kind for s in cells["mixed"].stages] == ["data", "segmenter", "predict", "evaluate"]


def test_a_change_redoes_only_what_depends_on_it() -> None:
    before = keys_of(cells_of())
    assert before == keys_of(cells_of())

    def changed(after: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
        return {k for k in before if after[k] != before[k]}

    classifiers = changed(keys_of(cells_of({"classifier": {"epochs": 3}})))
    assert {kind for _, kind in classifiers} == {"classifier", "evaluate"}
    weights = changed(keys_of(cells_of(**{"edm-l64": "other"})))
    assert "real" not in {name for name, _ in weights}
    assert ("mixed", "data") in weights
    segmenters = changed(keys_of(cells_of({"segmenter": {"trainer": "t"}})))
    assert {kind for _, kind in segmenters} == {"segmenter", "predict", "evaluate"}


def test_rows_of_one_model_share_what_they_have_in_common() -> None:
    rows = {
        "edm-l64": {"nfe": [5, 20]},
        "few": {"model": "edm-l64", "nfe": [20], "count": 4},
        "twin": {"model": "edm-l64", "nfe": [20]},
    }
    cells = {
        c.name: c
        for c in build_cells(
            SweepSpec.model_validate(GRID | {"models": rows}), FINGERPRINTS | {"few": "w", "twin": "w"}
        )
    }
    few, whole, twin = (cells[f"{row}_nfe20_seed0"] for row in ("few", "edm-l64", "twin"))
    assert few.columns["count"] == few.stages[0].config["count"] == 4
    assert few.stages[0].config["model"] == "edm-l64"
    assert few.stages[0].key != whole.stages[0].key
    assert twin.stages[-1].key == whole.stages[-1].key
    assert twin.columns["row"] == "twin"


def test_what_auto_means_and_what_the_trainer_is_name_the_stages() -> None:
    spec = SweepSpec.model_validate(GRID)
    before = keys_of(cells_of())

    def changed(outside: dict[str, str], solvers: dict[tuple[str, int], str]) -> set[str]:
        after = keys_of({c.name: c for c in build_cells(spec, FINGERPRINTS | outside, solvers)})
        return {f"{name} {kind}" for (name, kind), key in before.items() if after[name, kind] != key}

    solver = changed({}, {("edm-l64", 5): "heun"})
    assert {name.split()[0] for name in solver} == {"edm-l64_nfe5_seed0"}
    trainer = changed({"trainer": "{width: 1}"}, {})
    assert {name.split()[1] for name in trainer} == {"segmenter", "predict", "evaluate"}


def test_the_reference_is_shared_not_repeated() -> None:
    cells = cells_of()
    baseline = cells["mixed"].stages[-1].needs["baseline"]
    assert baseline.key == cells["real"].stage("predict").key  # type: ignore[union-attr]


def test_seeds_of_images_and_trainings_are_crossed_and_share_their_images() -> None:
    cells = cells_of({"seeds": [0, 1], "segmenter": {"seeds": [5, 6, 7]}})
    assert len(cells) == (2 * 2 + 2) * 3
    three = [cells[f"edm-l64_nfe5_seed0_train{s}"] for s in (5, 6, 7)]
    assert len({c.stage("data").key for c in three}) == 1  # type: ignore[union-attr]
    assert len({c.stage("segmenter").key for c in three}) == 3  # type: ignore[union-attr]
    for cell in three:  # compared with the reference of the same seed
        seed = cell.columns["segmenter_seed"]
        assert cell.stages[-1].needs["baseline"].needs["segmenter"].config["seed"] == seed
    assert "baseline" not in cells["real_train6"].stages[-1].needs
    alone = cells_of({"segmenter": {"seed": 6}})["real"]
    assert alone.stage("segmenter").key == cells["real_train6"].stage("segmenter").key  # type: ignore[union-attr]


def test_a_name_without_seeds_stands_for_all_repeats() -> None:
    cells = list(cells_of({"seeds": [0, 1], "segmenter": {"seeds": [5, 6]}}).values())
    assert len(repeats_of("edm-l64_nfe5", cells)) == 4
    assert len(repeats_of("edm-l64_nfe5_seed1", cells)) == 2
    assert [c.name for c in repeats_of("real_train5", cells)] == ["real_train5"]
    assert len(repeats_of("real", cells)) == 2
    assert repeats_of("none", cells) == []
    assert {c.name for c in choose_cells(cells, ["real", "edm-l64_nfe5_seed1_train6"])} == {
        "edm-l64_nfe5_seed1_train6",
        "real_train5",
        "real_train6",
    }
    accepted = (
        "--only none: expected some of real, edm-l64_nfe5, edm-l64_nfe20, mixed, or single repeats such as real_train5"
    )
    with pytest.raises(SpecError, match=accepted):
        choose_cells(cells, ["real", "none"])


def test_an_imported_dataset_is_a_cell_that_is_there_already() -> None:
    changes = {"cells": {"real": {"kind": "real"}, "sdm": {"kind": "imported", "dataset": 650}}}
    cells = cells_of(changes, **{"dataset 650": "a"})
    assert [s.kind for s in cells["sdm"].stages] == ["data", "segmenter", "predict", "classifier", "evaluate"]
    data, runner = cells["sdm"].stages[0], runner_in(Path("out"))
    assert runner.commands.of(data) == []
    assert runner.workspace.dataset_id(data) == 650
    assert cells["sdm"].stages[1].needs["data"] == data
    other = cells_of(changes, **{"dataset 650": "b"})
    assert keys_of(other)["sdm", "segmenter"] != keys_of(cells)["sdm", "segmenter"]
    assert keys_of(other)["real", "segmenter"] == keys_of(cells)["real", "segmenter"]


def test_simulated_physics_is_a_cell_without_a_network() -> None:
    cells = cells_of({"cells": GRID["cells"] | {"bmode": {"kind": "bmode", "count": 5}, "noise": {"kind": "noise"}}})  # type: ignore[operator]
    assert [s.kind for s in cells["bmode"].stages] == ["data", "segmenter", "predict", "classifier", "evaluate"]
    data = cells["bmode"].stages[0]
    assert data.config["count"] == 5
    assert data.config["renderer"]
    command = runner_in(Path("out")).commands.of(data)
    assert command[0][:4] == ["generate", "--model=bmode", "--count=5", "--seed=0"]
    assert runner_in(Path("out")).workspace.dataset_id(data) == 601
    mixed = cells_of({"cells": {"b": {"kind": "bmode"}, "m": {"kind": "mix", "base": "b"}}, "reference": "b"})["m"]
    assert mixed.stages[0].needs["base"].config["kind"] == "bmode"


def test_pretraining_shares_the_base_and_the_real_patients() -> None:
    few = {"kind": "real", "patients": 2}
    before = {"kind": "pretrain", "base": "edm-l64_nfe5_seed0", "patients": 2}
    extra = {"few": few, "pretrained": before, "whole": {**before, "patients": None}, "real": {"kind": "real"}}
    cells = cells_of({"cells": extra, "segmenter": {"seeds": [5, 6]}})
    cell, base, real = (cells[f"{n}_train6"] for n in ("pretrained", "edm-l64_nfe5_seed0", "few"))
    segmenter = cell.stage("segmenter")
    assert segmenter is not None
    assert segmenter.needs["init"].key == base.stage("segmenter").key  # type: ignore[union-attr]
    assert segmenter.needs["data"].key == real.stages[0].key == cell.stages[0].key
    assert segmenter.key != real.stage("segmenter").key  # type: ignore[union-attr]
    assert [s.kind for s in cell.stages] == ["data", "segmenter", "predict", "evaluate"]
    assert cell.columns["kind"] == "pretrain"
    assert (cell.columns["base"], cell.columns["nfe"], cell.columns["patients"]) == ("edm-l64_nfe5_seed0", 5, 2)
    both = cells["whole_train6"].stage("classifier")
    assert both is not None
    assert both.needs["init"].key == base.stage("classifier").key  # type: ignore[union-attr]


def test_pretraining_is_a_start_from_what_the_base_left(tmp_path: Path) -> None:
    extra = {"whole": {"kind": "pretrain", "base": "edm-l64_nfe5_seed0", "epochs": 3}, "real": {"kind": "real"}}
    cell, runner = cells_of({"cells": extra})["whole"], runner_in(tmp_path)
    segmenter, classifier = cell.stage("segmenter"), cell.stage("classifier")
    assert segmenter is not None
    assert classifier is not None
    trained = (
        runner.workspace.folder(segmenter.needs["init"]) / "results/Dataset601_X/nnUNetTrainerEchoSynth__p__2d/fold_0"
    )
    trained.mkdir(parents=True)
    command = runner.commands.of(segmenter)[0]
    assert {f"--init={trained}", "--dataset-id=501", "--epochs=3"} <= set(command)
    assert segmenter.needs["init"].config["epochs"] is None
    run = runner.workspace.classifier_run(classifier.needs["init"])
    assert f"--init={run}" in runner.commands.of(classifier)[0]
    assert not [w for w in runner.commands.of(segmenter.needs["init"])[0] if w.startswith("--init")]


def test_how_images_are_computed_is_part_of_what_they_are(tmp_path: Path) -> None:
    before, after = cells_of(), cells_of({"precision": "bf16", "compile": True})
    redone = {name for name in before if before[name].stages[0].key != after[name].stages[0].key}
    assert redone == {"edm-l64_nfe5_seed0", "edm-l64_nfe20_seed0", "mixed"}
    assert keys_of(cells_of({"precision": "auto", "compile": False})) == keys_of(before)  # sweeps of before keep theirs
    commands = runner_in(tmp_path).commands
    commands = replace(commands, inputs=replace(commands.inputs, checkpoints={"w": tmp_path}))
    (plain,), (other,) = (commands.of(c["edm-l64_nfe5_seed0"].stages[0]) for c in (before, after))
    assert [w for w in other if w not in plain and "--classification" not in w] == ["--precision=bf16", "--compile"]


def test_a_row_may_start_at_another_noise_level(tmp_path: Path) -> None:
    rows = {"edm-l64": {"nfe": [5, 20]}, "low": {"model": "edm-l64", "nfe": [5], "sigma_max": 20}}
    cells = cells_of({"models": rows}, low="w")
    assert keys_of(cells_of()).items() <= keys_of(cells).items()
    plain, low = cells["edm-l64_nfe5_seed0"].stages[0], cells["low_nfe5_seed0"].stages[0]
    assert low.key != plain.key
    commands = runner_in(tmp_path).commands
    commands = replace(commands, inputs=replace(commands.inputs, checkpoints={"w": tmp_path}))
    (drawn,) = commands.of(low)
    assert "--sigma-max=20.0" in drawn


def test_quality_is_a_stage_beside_the_others_and_changes_none_of_them() -> None:
    """Of what is drawn or imported, once a dataset, by the models of the reference; without the key, all stays as it was."""
    extra = GRID["cells"] | {  # type: ignore[operator]
        "bmode": {"kind": "bmode"},
        "noise": {"kind": "noise"},
        "sdm": {"kind": "imported", "dataset": 650},
        "kept": {"kind": "filtered", "base": "edm-l64_nfe5_seed0"},
        "before": {"kind": "pretrain", "base": "edm-l64_nfe5_seed0"},
    }
    same = {"cells": extra, "segmenter": {"seeds": [5, 6]}}
    before, cells = (cells_of(same | q, **{"dataset 650": "a"}) for q in ({}, {"quality": {"count": 3}}))
    assert not [s for c in before.values() for s in c.stages if s.kind == "quality"]
    assert keys_of(before) == {k: key for k, key in keys_of(cells).items() if k[1] != "quality"}
    judged = {name: c.stage("quality") for name, c in cells.items()}
    own = ("edm-l64_nfe5_seed0", "edm-l64_nfe20_seed0", "bmode", "noise", "sdm")
    assert {n for n, stage in judged.items() if stage} == {f"{n}_train{s}" for n in own for s in (5, 6)}
    for name in own:
        first, second = (judged[f"{name}_train{seed}"] for seed in (5, 6))
        assert first is not None
        assert second is not None
        assert first.key == second.key
        assert first.needs["data"].key == cells[f"{name}_train5"].stages[0].key
        assert first.needs["judge"].key == cells["real_train5"].stage("segmenter").key  # type: ignore[union-attr]
        assert first.needs["classifier"].key == cells["real_train5"].stage("classifier").key  # type: ignore[union-attr]
    assert len({stage.key for stage in judged.values() if stage}) == len(own)
    more = keys_of(cells_of(same | {"quality": {"count": 4}}, **{"dataset 650": "a"}))
    assert {kind for (_, kind), key in keys_of(cells).items() if key not in more.values()} == {"quality"}


def test_sweeps_of_before_keep_their_folders() -> None:
    """Hashes of GRID as they were before sweeps had quality; that of an evaluation is over all stages before it.

    Evaluations with a baseline are made anew, see below.
    """
    former = {
        "edm-l64_nfe20_seed0": "548ce4e981af",
        "edm-l64_nfe5_seed0": "e5f341f53c81",
        "mixed": "f800f4f57ad9",
        "real": "bfbc37b6f294",
    }
    cells = cells_of()
    last = {name: cell.stages[-1] for name, cell in cells.items()}
    assert {stage.kind for stage in last.values()} == {"evaluate"}
    as_before = {
        name: replace(s, config={k: v for k, v in s.config.items() if k != "method"}) for name, s in last.items()
    }
    assert {name: stage.key for name, stage in as_before.items()} == former


def test_images_are_judged_by_the_command_that_a_user_would_type(tmp_path: Path) -> None:
    cells = cells_of({"quality": {"count": 3, "rate": 0.1}, "segmenter": {"trainer": "t"}})
    runner = runner_in(tmp_path)
    commands, space = runner.commands, runner.workspace
    stage = cells["edm-l64_nfe5_seed0"].stage("quality")
    assert stage is not None
    drawn = space.folder(stage.needs["data"]) / "Dataset601_X"
    drawn.mkdir(parents=True)
    [words] = commands.of(stage)
    assert words[0] == "quality"
    classifier = space.classifier_run(stage.needs["classifier"])
    wanted = {"--dataset-id=601", "--real=501", "--trainer=t", "--count=3", "--rate=0.1", f"--classifier={classifier}"}
    assert wanted <= set(words)
    assert not [w for w in words if w.startswith("--perceptual") or w == "--no-features"]
    assert commands.linked(stage) == [space.real.path, drawn]
    folders = commands.environment(stage)
    assert folders["nnUNet_raw"] == str(space.folder(stage))
    assert folders["nnUNet_results"] == str(space.folder(stage.needs["judge"]) / "results")
    without = cells_of({"quality": {"perceptual": "none"}, "segmenter": None, "classifier": None})
    [alone] = commands.of(without["edm-l64_nfe5_seed0"].stages[-1])
    assert {"--no-features", "--perceptual=none", "--count=200"} <= set(alone)
    assert not [w for w in alone if w.startswith(("--trainer", "--classifier"))]


def test_evaluations_with_a_baseline_are_not_those_of_earlier_versions() -> None:
    """These had taken the baseline's predictions for the cell's."""
    methods = {name: c.stage("evaluate").config.get("method") for name, c in cells_of().items()}  # type: ignore[union-attr]
    assert methods.pop("real") is None
    assert methods
    assert set(methods.values()) == {2}


@pytest.mark.parametrize("name", ["edm-l64_nfe5_seed0", "edm-l64_nfe5"])
def test_a_cell_may_not_take_the_name_of_one_of_the_grid(name: str) -> None:
    with pytest.raises(SpecError, match=f"cells.{name}: models: has cells of that name"):
        cells_of({"cells": {"real": {"kind": "real"}, name: {"kind": "noise"}}})
