"""Sweeps: what a change redoes, presets, and a small one from end to end, killed and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cli.sweep_commands import sweep
from echo_synth import specs
from echo_synth.errors import SpecError
from echo_synth.experiment.cells import Cell, build_cells
from echo_synth.experiment.spec import SweepSpec, read_sweep
from echo_synth.generation.engine import Sampler
from echo_synth.generation.noise import NoiseTextures
from echo_synth.report import figures, sweep_figures
from echo_synth.report.page import build

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


def test_a_row_may_not_take_the_name_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("real: 501\ncount: 1\nmodels: {maps: {model: edm, nfe: [1]}}\n")
    with pytest.raises(SpecError, match=r"models\.maps: the name is taken"):
        read_sweep(tmp_path / "s.yaml")


def test_the_front_is_what_nothing_beats() -> None:
    seconds, dice = np.array([1.0, 2, 3, 2, 1]), np.array([0.8, 0.9, 0.85, 0.9, 0.7])
    assert sweep_figures.pareto(seconds, dice).tolist() == [True, True, False, True, False]
    rng = np.random.default_rng(0)
    s, d = rng.random(40), rng.random(40)
    for i, kept in enumerate(sweep_figures.pareto(s, d)):
        assert kept == (d[i] > d[s < s[i]].max(initial=-1.0))


def test_figures_and_report_of_a_sweep(tmp_path: Path) -> None:
    rows = [
        {"cell": f"{row}_nfe{n}_seed0", "kind": "synthetic", "row": row, "model": row, "nfe": n, "count": 8, "state": "done", "seconds_per_image": n * 0.01,
         "dice_lv_endo": 0.9, "dice_lv_endo_low": 0.88, "dice_lv_endo_high": 0.91} for row, n in (("edm-l64", 5), ("edm-l64", 20), ("sdm", 1000))
    ]  # fmt: skip
    rows.append(
        {
            "cell": "real",
            "kind": "real",
            "state": "1/5",
            "dice_lv_endo": 0.93,
            "dice_lv_endo_low": 0.92,
            "dice_lv_endo_high": 0.94,
        }
    )
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "results.csv", index=False)
    scores = sweep_figures.scores(table)
    assert scores is not None
    assert len(scores.axes) == 1
    curves = {line.get_label(): line for line in scores.axes[0].lines}
    assert set(curves) == {"edm-l64", "sdm at 1000", "real"}
    assert list(curves["edm-l64"].get_xdata()) == [5, 20]
    assert list(curves["real"].get_ydata()) == [0.93, 0.93]
    throughput = sweep_figures.throughput(table)
    assert throughput is not None
    assert throughput.axes[0].lines[0].get_ydata()[0] == pytest.approx(20)
    front = sweep_figures.cost_front(table)
    assert front is not None
    (tmp_path / "pareto.png").write_bytes(figures.png(front))
    assert sweep_figures.scores(table.drop(columns="dice_lv_endo")) is None
    page = build(tmp_path)
    assert "0.900 [0.880,\u00a00.910]" in page
    assert "Dice of the LV endocardium against seconds an image" in page
    assert "1/5" in page


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
    how = Sampler(1, "euler", "edm")
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
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], start_new_session=True)
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
