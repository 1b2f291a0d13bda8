"""Sweeps: what a change redoes, presets, and a small one from end to end, killed and resumed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cli.sweep import Runner, _seconds_per_image, _shell
from cli.sweep_commands import outside, publish, submit, sweep
from echo_synth import specs
from echo_synth.errors import RunError, SpecError
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.statistics import Resampling
from echo_synth.experiment.cells import Cell, Stage, build_cells
from echo_synth.experiment.comparisons import compare_cells
from echo_synth.experiment.spec import SweepSpec, read_sweep
from echo_synth.files import write_json
from echo_synth.generation.engine import SamplerSettings
from echo_synth.generation.noise import NoiseTextures
from echo_synth.report.blocks import keep_together
from echo_synth.report.page import build
from tests.report.tables import sweep_table

PRESETS = sorted(p.stem for p in (specs.root() / "presets/sweeps").glob("*.yaml"))
OUTSIDE = {"real": "r", "maps": "m"} | dict.fromkeys(specs.DIFFUSION_MODELS, "w")
GRID = {
    "real": 501, "count": 8, "models": {"edm-l64": {"nfe": [5, 20]}},
    "cells": {"real": {"kind": "real"}, "mixed": {"kind": "mix", "base": "edm-l64_nfe20_seed0", "share": 0.5, "patients": 2}},
}  # fmt: skip


def _cells(changes: dict[str, object] | None = None, **outside: str) -> dict[str, Cell]:
    spec = SweepSpec.model_validate(GRID | (changes or {}))
    return {c.name: c for c in build_cells(spec, OUTSIDE | outside)}


def _keys(cells: dict[str, Cell]) -> dict[tuple[str, str], str]:
    return {(name, s.kind): s.key for name, c in cells.items() for s in c.stages}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name: str) -> None:
    spec = read_sweep(Path(f"{name}.yaml"))
    cells = build_cells(spec, OUTSIDE | dict.fromkeys(spec.models, "w"))
    assert cells[0].name == "real"
    assert all(c.stages[-1].kind == "evaluate" for c in cells)


def test_the_grid_has_a_cell_for_each_combination() -> None:
    cells = _cells({"seeds": [0, 1]})
    assert {"edm-l64_nfe5_seed0", "edm-l64_nfe5_seed1", "edm-l64_nfe20_seed0", "edm-l64_nfe20_seed1", "real", "mixed"} == set(cells)  # fmt: skip
    assert [s.kind for s in cells["real"].stages] == ["data", "segmenter", "predict", "classifier", "evaluate"]
    assert [s.kind for s in cells["mixed"].stages] == ["data", "segmenter", "predict", "evaluate"]


def test_a_change_redoes_only_what_depends_on_it() -> None:
    before = _keys(_cells())
    assert before == _keys(_cells())

    def changed(after: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
        return {k for k in before if after[k] != before[k]}

    classifiers = changed(_keys(_cells({"classifier": {"epochs": 3}})))
    assert {kind for _, kind in classifiers} == {"classifier", "evaluate"}
    weights = changed(_keys(_cells(**{"edm-l64": "other"})))
    assert "real" not in {name for name, _ in weights}
    assert ("mixed", "data") in weights
    segmenters = changed(_keys(_cells({"segmenter": {"trainer": "t"}})))
    assert {kind for _, kind in segmenters} == {"segmenter", "predict", "evaluate"}


def test_rows_of_one_model_share_what_they_have_in_common() -> None:
    rows = {
        "edm-l64": {"nfe": [5, 20]},
        "few": {"model": "edm-l64", "nfe": [20], "count": 4},
        "twin": {"model": "edm-l64", "nfe": [20]},
    }
    cells = {c.name: c for c in build_cells(SweepSpec.model_validate(GRID | {"models": rows}), OUTSIDE | {"few": "w", "twin": "w"})}  # fmt: skip
    few, whole, twin = (cells[f"{row}_nfe20_seed0"] for row in ("few", "edm-l64", "twin"))
    assert few.facts["count"] == few.stages[0].config["count"] == 4
    assert few.stages[0].config["model"] == "edm-l64"
    assert few.stages[0].key != whole.stages[0].key
    assert twin.stages[-1].key == whole.stages[-1].key
    assert twin.facts["row"] == "twin"


def test_what_auto_means_and_what_the_trainer_is_name_the_stages() -> None:
    spec = SweepSpec.model_validate(GRID)
    before = _keys(_cells())

    def changed(outside: dict[str, str], solvers: dict[tuple[str, int], str]) -> set[str]:
        after = _keys({c.name: c for c in build_cells(spec, OUTSIDE | outside, solvers)})
        return {f"{name} {kind}" for (name, kind), key in before.items() if after[name, kind] != key}

    solver = changed({}, {("edm-l64", 5): "heun"})
    assert {name.split()[0] for name in solver} == {"edm-l64_nfe5_seed0"}
    trainer = changed({"trainer": "{width: 1}"}, {})
    assert {name.split()[1] for name in trainer} == {"segmenter", "predict", "evaluate"}


def test_auto_is_settled_before_the_sweep_and_a_study_changes_auto_only(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "edm-l64"
    shutil.copytree(specs.root() / "bundled/edm-l64", run)
    rows = {"edm-l64": {"nfe": [20], "checkpoint": str(run)}, "fixed": {"model": "edm-l64", "nfe": [20], "solver": "euler", "checkpoint": str(run)}}  # fmt: skip
    spec = SweepSpec.model_validate(GRID | {"models": rows})
    before = outside(spec)
    assert before.solvers == {("edm-l64", 20): "unipc", ("fixed", 20): "euler"}
    write_json(run / "solvers.json", {"recommended": {"20": "heun"}})
    after = outside(spec)
    assert after.solvers == {("edm-l64", 20): "heun", ("fixed", 20): "euler"}
    assert after.fingerprints == before.fingerprints
    assert '"half_resolution": false' in before.fingerprints["trainer"]


def test_the_shell_does_not_change_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_NNUNET_EPOCHS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = _shell()
    assert "ECHOSYNTH_NNUNET_EPOCHS" not in kept
    assert kept["OMP_NUM_THREADS"] == "1"


def test_an_image_s_time_is_that_of_drawing(tmp_path: Path) -> None:
    assert _seconds_per_image(tmp_path) is None
    log = "$ echosynth generate\nKilled\n$ echosynth generate\ndrew 40 images in 10.0 s; 300 images of 75 patients, complete\n"
    (tmp_path / "log.txt").write_text(log)
    assert _seconds_per_image(tmp_path) == 0.25


def test_a_failed_cell_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(SweepSpec.model_validate(GRID), tmp_path, tmp_path, {}, "cpu")

    def run(_: Runner, stage: Stage) -> None:
        if stage.config["kind"] == "real":
            raise RunError("no")

    monkeypatch.setattr(Runner, "run", run)
    cells = [Cell(name, {}, (Stage("data", {"kind": name}),)) for name in ("real", "noise")]
    said: list[str] = []
    assert runner.run_cells(cells, said.append) == ["real"]
    assert said[-1].strip().startswith("data-")


def test_a_row_may_not_take_the_name_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("real: 501\ncount: 1\nmodels: {maps: {model: edm, nfe: [1]}}\n")
    with pytest.raises(SpecError, match=r"models\.maps: the name is taken"):
        read_sweep(tmp_path / "s.yaml")


def _scores(shift: float) -> pd.DataFrame:
    """Six patients, two images each; every score is `shift` above the cell of shift 0, but for one patient, who is below."""
    rows = [
        {"patient": f"p{i // 2}", "case": f"c{i}", "structure": s} | dict.fromkeys(METRICS, 0.5 + (shift if i > 1 else -shift))
        for i in range(12) for s in ("lv_endo", "la")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_pairs_of_cells_are_compared_once_both_are_done(tmp_path: Path) -> None:
    pairs = {"one": ("a", "b"), "other_way": ("b", "a"), "waiting": ("a", "c")}
    table = compare_cells(pairs, {"a": _scores(0.1), "b": _scores(0)}, Resampling(200))
    assert set(table["comparison"]) == {"one", "other_way"}
    shown = table.set_index(["comparison", "structure", "metric"])
    for name, sign in (("one", 1), ("other_way", -1)):
        row = shown.loc[(name, "lv_endo", "dice")]
        assert row["difference"] == pytest.approx(sign * 0.1 * (5 - 1) / 6)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["n_patients"] == 6
        # Of 2^6 flips of six equal differences, 14 leave a sum as far from zero: one sign differs at most.
        assert row["p"] == pytest.approx(14 / 64, abs=0.02)
        assert row["p_holm"] == pytest.approx(3 * row["p"])  # three comparisons, also the one that waits; not ten rows
    assert compare_cells(pairs, {"a": _scores(0.1)}, Resampling(200)).empty
    sweep_table().to_csv(tmp_path / "results.csv", index=False)
    table.to_csv(tmp_path / "comparisons.csv", index=False)
    page = build(tmp_path)
    assert "other way" in page
    assert "+0.067 [" in page
    assert "], p\u00a00." in page
    assert keep_together("0.1 [0.0, 0.2], p < 0.001") == "0.1 [0.0,\u00a00.2], p\u00a0<\u00a00.001"


def test_a_sweep_writes_its_comparisons_and_removes_those_of_before(tmp_path: Path) -> None:
    """The named pair, in its order; a cell without scores waits, and so does one that is not done."""
    scores = {"real": 0.1, "edm-l64_nfe5_seed0": 0.0, "mixed": 0.2}

    def published(compare: dict[str, list[str]]) -> Path:
        spec = SweepSpec.model_validate(GRID | {"compare": compare, "repeats": 50})
        cells = build_cells(spec, OUTSIDE)
        runner = Runner(spec, tmp_path, tmp_path, {}, "cpu")
        for cell in cells:
            stage = cell.stages[-1]
            if cell.name in scores:
                write_json(runner.folder(stage) / "result" / "metrics.json", {})
                if cell.name != "mixed":
                    _scores(scores[cell.name]).to_csv(runner.folder(stage) / "result" / "per_case.csv", index=False)
                write_json(runner.folder(stage) / "done.json", {})
        publish(runner, cells)
        return tmp_path / "comparisons.csv"

    pairs = {
        "pair": ["real", "edm-l64_nfe5_seed0"],
        "none": ["mixed", "real"],
        "later": ["edm-l64_nfe20_seed0", "real"],
    }
    table = pd.read_csv(published(pairs))
    assert set(table["comparison"]) == {"pair"}
    assert set(table["cell"]) == {"real"}
    assert set(table["difference"].round(6)) == {round(0.1 * (5 - 1) / 6, 6)}
    assert not published({}).exists()


def test_the_reference_is_shared_not_repeated() -> None:
    cells = _cells()
    baseline = cells["mixed"].stages[-1].needs["baseline"]
    assert baseline.key == cells["real"].stage("predict").key  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "did you mean 'models'"), ({"reference": "x"}, "reference: x; expected one of"),
        ({"cells": {"m": {"kind": "mix", "base": "y"}}, "reference": None}, r"cells\.m\.base: y"),
        ({"cells": {"real": {"kind": "real"}, "z": {"kind": "mix", "base": "real"}}}, "real is a real cell; expected a synthetic"),
        ({"cells": {"real": {"kind": "real", "patients": 3}, "z": {"kind": "filtered", "base": "edm-l64_nfe5_seed0"}}}, "kind real with all patients"),
        ({"compare": {"c": ["mixed", "reel"]}}, r"compare\.c: reel; expected one of the cells: .*real"),
        ({"compare": {"c": ["real", "mixed"]}, "segmenter": None}, r"compare\.c: expected a segmenter"),
        ({"compare": {"c": ["real", "real"]}}, r"compare\.c: real twice"),
        ({"models": {"edm-l46": {"nfe": [1]}}}, "did you mean 'edm-l64'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_spec_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(GRID | change))
    with pytest.raises(SpecError, match=message):
        build_cells(read_sweep(tmp_path / "s.yaml"), OUTSIDE)


def test_unknown_files_name_the_presets() -> None:
    with pytest.raises(SpecError, match="presets: cpu, paper, questions, smoke"):
        read_sweep(Path("nothing.yaml"))


def test_noise_knows_the_outlines_only() -> None:
    tissues = np.zeros((2, 64, 64), np.uint8)
    tissues[:, 10:50, 10:50], tissues[:, 20:40, 20:40] = 4, 1
    how = SamplerSettings(1, "euler", "edm")
    images = NoiseTextures().draw(tissues, np.zeros(2, np.uint8), 3, [5, 6], how)
    assert np.array_equal(images > 0, tissues > 0)
    assert np.array_equal(images[1], NoiseTextures().draw(tissues[1:], np.zeros(1, np.uint8), 3, [6], how)[0])
    assert not np.array_equal(images[0], images[1])


def _small(folder: Path) -> Path:
    """Without nnU-Net: real and one model, a classifier each."""
    spec = {
        "real": 501, "count": 8, "batch": 4, "models": {"edm-l64": {"nfe": [1]}}, "segmenter": None, "repeats": 20,
        "cells": {"real": {"kind": "real"}}, "classifier": {"epochs": 1, "resolution": 32},
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(spec))
    return folder / "small.yaml"


def test_a_killed_sweep_goes_on_and_repeats_nothing(home: Path, tmp_path: Path) -> None:
    spec, out = _small(tmp_path), tmp_path / "sweep"
    command = [sys.executable, "-m", "cli.main", "sweep", str(spec), "--out", str(out), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    deadline = time.monotonic() + 600  # a slow machine with other work
    while time.monotonic() < deadline and len(list(out.glob("work/*/done.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in out.glob("work/*/done.json")}
    assert len(before) >= 2
    sweep(spec, out, device="cpu")
    after = {p: p.stat().st_mtime_ns for p in out.glob("work/*/done.json")}
    assert before.items() <= after.items()
    assert len(after) == 6
    table = pd.read_csv(out / "results.csv").set_index("cell")
    assert (table["state"] == "done").all()
    assert table["accuracy"].between(0, 1).all()
    assert table.loc["edm-l64_nfe1_seed0", "seconds_per_image"] > 0
    assert {p.name for p in out.glob("*.png")} == {"images.png", "scores.png", "throughput.png"}
    logs = {p: p.read_text() for p in out.glob("work/*/log.txt")}
    sweep(spec, out, device="cpu")
    assert logs == {p: p.read_text() for p in out.glob("work/*/log.txt")}


def test_the_gpus_of_one_machine_share_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(SweepSpec.model_validate(GRID), tmp_path, tmp_path, {}, "cpu")
    cells = [Cell(f"c{i}", {"kind": "real"}, (Stage("data", {"kind": "real", "i": i}),)) for i in range(3)]
    for cell in cells:
        write_json(runner.folder(cell.stages[0]) / "done.json", {})
    monkeypatch.setattr("cli.sweep_commands._gpu_count", lambda: 2)
    limits = {"hours": 0.1, "gpus": 1, "partition": None}
    submit(runner, cells, cells, "local", limits)
    assert len(list(tmp_path.glob("jobs/*_submitted.pkl"))) == 2
    assert len(pd.read_csv(tmp_path / "results.csv")) == 3
    with pytest.raises(RunError, match="--gpus 3: this machine has 2"):
        submit(runner, cells, cells, "local", limits | {"gpus": 3})
    broken = Cell("broken", {"kind": "real"}, (Stage("evaluate", {"repeats": 1, "kind": "real"}),))
    with pytest.raises(RunError, match=r"1 of 2 cells failed \(broken\)"):
        submit(runner, [cells[0], broken], [cells[0], broken], "local", limits)
