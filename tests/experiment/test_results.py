"""Tables of a sweep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from echo_synth.experiment.cells import build_cells
from echo_synth.experiment.results import Results
from echo_synth.experiment.spec import SweepSpec
from echo_synth.files import write_json
from echo_synth.report.reading import read_sweep_results
from echo_synth.report.tables import sweep_rows
from tests.experiment.sweeps import FINGERPRINTS, GRID, runner_in, scores_of


def test_a_sweep_writes_its_comparisons_and_removes_those_of_before(tmp_path: Path) -> None:
    """The named pair, in its order; a cell without scores waits, and so does one that is not done."""
    scores = {"real": 0.1, "edm-l64_nfe5_seed0": 0.0, "mixed": 0.2}

    def published(compare: dict[str, list[str]]) -> Path:
        spec = SweepSpec.model_validate(GRID | {"compare": compare, "repeats": 50})
        cells = build_cells(spec, FINGERPRINTS)
        workspace = runner_in(tmp_path).workspace
        for cell in cells:
            stage = cell.stages[-1]
            if cell.name in scores:
                write_json(workspace.result(stage) / "metrics.json", {})
                if cell.name != "mixed":
                    scores_of(scores[cell.name]).to_csv(workspace.result(stage) / "per_case.csv", index=False)
                write_json(workspace.folder(stage) / "done.json", {})
        Results(spec, cells, workspace).publish()
        table = pd.read_csv(tmp_path / "results.csv").set_index("cell")["covers"]
        assert table.dropna().to_dict() == dict.fromkeys(scores, "patients")
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


def test_an_arm_is_all_its_repeats_with_their_seeds(tmp_path: Path) -> None:
    """Generator and segmenter seeds are crossed; an arm waits for the last of them."""
    changes = {"seeds": [3, 4], "segmenter": {"seeds": [7, 8]}, "cells": {"real": {"kind": "real"}}}
    spec = SweepSpec.model_validate(GRID | changes | {"compare": {"c": ["edm-l64_nfe5", "real"]}})
    cells = build_cells(spec, FINGERPRINTS)
    workspace = runner_in(tmp_path).workspace
    results = Results(spec, cells, workspace)
    arm = [c for c in cells if c.arm == "edm-l64_nfe5"]
    assert [c.name for c in arm] == [f"edm-l64_nfe5_seed{g}_train{s}" for g in (3, 4) for s in (7, 8)]
    for i, cell in enumerate(arm):
        assert results.scores_of("edm-l64_nfe5") is None
        stage = cell.stages[-1]
        write_json(workspace.result(stage) / "metrics.json", {})
        scores_of(i / 100).to_csv(workspace.result(stage) / "per_case.csv", index=False)
        write_json(workspace.folder(stage) / "done.json", {})
    table = results.scores_of("edm-l64_nfe5")
    assert table is not None
    seeds = table.groupby(["generator_seed", "segmenter_seed"]).size()
    assert seeds.to_dict() == {(3, 7): 24, (3, 8): 24, (4, 7): 24, (4, 8): 24}
    assert "generator_seed" not in results.scores_of("edm-l64_nfe5_seed3_train7")  # type: ignore[operator]


def test_money_stands_beside_seconds_where_a_price_is_named(tmp_path: Path) -> None:
    spec = SweepSpec.model_validate(GRID)
    cells = build_cells(spec, FINGERPRINTS)
    workspace = runner_in(tmp_path).workspace
    drawn = next(c for c in cells if c.name == "edm-l64_nfe5_seed0")
    data = drawn.stages[0]
    record = {"kind": data.kind, "config": dict(data.config), "seconds_per_image": 0.36, "seconds": 9.0}
    write_json(workspace.folder(data) / "done.json", record)
    Results(spec, cells, workspace, price=2.5).write_table()
    table = read_sweep_results(tmp_path / "results.csv").set_index("cell")
    assert table.loc["edm-l64_nfe5_seed0", "money_per_1000_images"] == 0.25  # a tenth of an hour
    assert table["money_per_1000_images"].count() == 1
    rows = sweep_rows(table.reset_index())
    column = rows[0].index("Price of 1000 images")
    assert {row[column] for row in rows[1:]} == {"0.25", "–"}
    Results(spec, cells, workspace).write_table()
    assert "money_per_1000_images" not in read_sweep_results(tmp_path / "results.csv")
