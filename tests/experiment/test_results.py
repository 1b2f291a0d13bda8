"""Tables of a sweep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from echo_synth.errors import DataError
from echo_synth.evaluation.rank_correlation import FEWEST
from echo_synth.experiment.cells import build_cells
from echo_synth.experiment.cost import fleet_of, plan_dataset
from echo_synth.experiment.measured import Machine, Throughput
from echo_synth.experiment.results import Results
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell
from echo_synth.files import write_json
from echo_synth.report.page import build
from echo_synth.report.reading import read_correlations, read_sweep_results
from echo_synth.report.tables import sweep_rows
from tests.experiment.sweeps import FINGERPRINTS, GRID, runner_in, scores_of
from tests.report.tables import QUALITY


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


def test_seconds_of_models_come_from_a_benchmark_where_one_is_given(tmp_path: Path) -> None:
    spec = SweepSpec.model_validate(GRID | {"cells": {"real": {"kind": "real"}, "bmode": {"kind": "bmode"}}})
    cells = [c for c in build_cells(spec, FINGERPRINTS) if c.columns["kind"] != "real"]
    workspace = runner_in(tmp_path).workspace
    for cell in cells:
        data = cell.stages[0]
        record = {"kind": data.kind, "config": dict(data.config), "seconds_per_image": 9.0, "seconds": 9.0}
        write_json(workspace.folder(data) / "done.json", record)
    measured = Throughput(Path(), Machine(), {"edm-l64": [(5, 0.5), (20, 2.0)]})
    Results(spec, cells, workspace, price=3.6, throughput=measured).write_table()
    table = read_sweep_results(tmp_path / "results.csv").set_index("cell")
    for cell in cells:
        expected = (
            9.0 if cell.columns["kind"] == "bmode" else measured.speed("edm-l64", int(cell.columns["nfe"])).seconds
        )
        assert table.loc[cell.name, "seconds_per_image"] == pytest.approx(expected)
        money = table.loc[cell.name, "money_per_1000_images"]
        if cell.columns["kind"] == "bmode":  # whole machines have no price here
            assert pd.isna(money)
        else:
            assert money == pytest.approx(expected)


@pytest.mark.parametrize(("accelerator", "threads", "units"), [("cpu", 4, 4), ("cpu", None, 1), ("cuda", 4, 1)])
def test_a_process_on_several_cores_costs_all_of_them(
    accelerator: str, threads: int | None, units: int, tmp_path: Path
) -> None:
    """As `plan` and `--dry-run` count them; the column had the price of one core."""
    spec = SweepSpec.model_validate(GRID)
    cells = build_cells(spec, FINGERPRINTS)
    workspace = runner_in(tmp_path).workspace
    cell = next(c for c in cells if c.name == "edm-l64_nfe5_seed0")
    write_json(workspace.folder(cell.stages[0]) / "done.json", {"seconds_per_image": 9.0})
    machine = Machine.model_validate({"accelerator": accelerator, "threads": threads})
    measured = Throughput(Path(), machine, {"edm-l64": [(5, 1.8), (20, 7.2)]})
    told = Results(spec, cells, workspace, 2.0, measured).row(cell)["money_per_1000_images"]
    planned = plan_dataset(1000, "edm-l64", 5, fleet_of(None, None, 2.0, machine), measured)
    assert told == pytest.approx(planned.money) == pytest.approx(1.0 * units)


_JUDGED = {
    "models": {"edm-l64": {"nfe": [5, 20]}, "twin": {"model": "edm-l64", "nfe": [20]}},
    "cells": {"real": {"kind": "real"}, "bmode": {"kind": "bmode"}, "noise": {"kind": "noise"}},
    "segmenter": {"seeds": [5, 6]},
    "quality": {"count": 4},
    "repeats": 100,
}


def _sweep(folder: Path, changes: dict[str, object] | None = None) -> Results:
    spec = SweepSpec.model_validate(GRID | _JUDGED | (changes or {}))
    return Results(spec, build_cells(spec, FINGERPRINTS | {"twin": "w"}), runner_in(folder).workspace)


def _evaluated(results: Results, cell: Cell, dice: float, ef_error: float) -> None:
    """Leave an evaluation of six patients: Dice, error of EF in points, and a classifier that is always right."""
    stage, workspace = cell.stage("evaluate"), results.workspace
    assert stage is not None
    folder = workspace.result(stage)
    estimates = [{"mean": mean, "ci95": [mean, mean]} for mean in (dice, 1.0)]
    write_json(
        folder / "metrics.json",
        {"segmentation": {"lv_endo": {"dice": estimates[0]}}, "classification": {"accuracy": estimates[1]}},
    )
    scores_of(0).assign(dice=dice).to_csv(folder / "per_case.csv", index=False)
    patients = [f"p{i}" for i in range(6)]
    volumes = pd.DataFrame(
        {"patient": patients, "convention": "camus", "ef_percent": 50.0, "ef_percent_reference": 50.0}
    )
    wrong = volumes.assign(convention="clinical", ef_percent=0.0)
    volumes["ef_percent"] -= ef_error
    pd.concat([volumes, wrong]).to_csv(folder / "volumes.csv", index=False)
    views = pd.DataFrame({"patient": patients, "view": ["2CH", "4CH"] * 3, "probability_4CH": [0.1, 0.9] * 3})
    views.to_csv(folder / "views.csv", index=False)
    write_json(workspace.folder(stage) / "done.json", {})


def _looking(results: Results, cell: Cell, agreement: float) -> None:
    stage, workspace = cell.stage("quality"), results.workspace
    assert stage is not None
    seen = {**QUALITY["agreement"], "agreement": {"mean": agreement}}  # type: ignore[dict-item]
    quality = {k: v for k, v in QUALITY.items() if k != "diversity"} | {"agreement": seen}
    write_json(workspace.result(stage) / "quality.json", quality)
    write_json(workspace.folder(stage) / "done.json", {})


@pytest.mark.slow
def test_looks_stand_beside_outcomes_and_are_correlated_with_them(tmp_path: Path) -> None:
    """Four datasets in ten trainings: one is in two rows of the grid; a second training that fails moves the mean."""
    results = _sweep(tmp_path)
    dice = {"edm-l64_nfe5_seed0": 0.7, "edm-l64_nfe20_seed0": 0.9, "twin_nfe20_seed0": 0.9, "bmode": 0.8, "noise": 0.1}
    agreement = {
        "edm-l64_nfe5_seed0": 0.8,
        "edm-l64_nfe20_seed0": 0.9,
        "twin_nfe20_seed0": 0.9,
        "bmode": 0.7,
        "noise": 0.2,
    }
    results.publish()
    assert not (tmp_path / "correlations.csv").exists()
    for cell in results.cells:
        failed = 0.5 if cell.name == "edm-l64_nfe20_seed0_train6" or cell.name == "twin_nfe20_seed0_train6" else 0.0
        _evaluated(results, cell, dice.get(cell.dataset, 0.95) - failed, 10 * (1 - dice.get(cell.dataset, 0.95)))
        if cell.dataset in agreement:
            _looking(results, cell, agreement[cell.dataset])
    assert "looks.png" in results.publish()
    assert results.notes() == []
    table = read_sweep_results(tmp_path / "results.csv").set_index("cell")
    assert table.loc["twin_nfe20_seed0_train6", "images_of"] == "edm-l64_nfe20_seed0"  # drawn by the same weights
    assert table.loc["bmode_train5", "agreement"] == 0.7
    assert table.loc["bmode_train5", "near_copies"] == 0.05
    assert table["diversity_ratio"].isna().all()
    assert pd.isna(table.loc["real_train5", "agreement"])
    correlations = read_correlations(tmp_path / "correlations.csv").set_index(["measure", "outcome"])
    assert "diversity_difference" not in correlations.index.get_level_values("measure")
    assert (correlations["cells"] == 4).all()
    assert (correlations["patients"] == 6).all()
    # Looks rise: noise, bmode, nfe5, nfe20; Dice of nfe20 is 0.65 over both trainings: 1 − 6 · (4 + 4) / 60.
    row = correlations.loc[("agreement", "dice_lv_endo")]
    assert row["rho"] == pytest.approx(0.2)
    assert (row["real_is"], row["better_is"]) == ("high", "high")
    error = correlations.loc[("agreement", "ef_mae")]
    assert error["rho"] == pytest.approx(-0.8)  # the errors of CAMUS's convention: 9, 2, 3, 1
    assert error["better_is"] == "low"
    assert pd.isna(correlations.loc[("agreement", "accuracy"), "rho"])  # all the same
    assert pd.isna(correlations.loc[("near_copies", "dice_la"), "rho"])
    page = build(tmp_path)
    assert "How real the images look" in page
    assert "+0.80 [" in page  # a smaller error is better: the sign is turned
    assert "none: all ranks are the same" in page
    assert "it does not know how other images of the same generators would look" in page
    assert 'alt="Rank correlations of looks and outcomes' in page
    assert "Quality: Dataset601_EDM" not in page  # of a cell


def test_too_few_datasets_are_said_to_be_and_nothing_old_stays(tmp_path: Path) -> None:
    results = _sweep(tmp_path)
    for cell in results.cells:
        _evaluated(results, cell, 0.5, 1.0)
        if cell.dataset in ("bmode", "noise", "edm-l64_nfe5_seed0"):
            _looking(results, cell, 0.5)
    for name in ("correlations.csv", "looks.png"):
        (tmp_path / name).write_text("of before")
    assert "looks.png" not in results.publish()
    assert not (tmp_path / "correlations.csv").exists()
    assert not (tmp_path / "looks.png").exists()
    [note] = results.notes()
    assert note == f"No correlation of looks and outcomes is given: it needs {FEWEST} datasets that have both, found 3."


def test_a_sweep_that_does_not_ask_for_quality_leaves_what_it_left(tmp_path: Path) -> None:
    """Columns, files and sentences: none of them speaks of looks."""
    results = _sweep(tmp_path, {"quality": None})
    for cell in results.cells:
        _evaluated(results, cell, 0.5, 1.0)
    results.publish()
    assert results.notes() == []
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"results.csv", "scores.png"}
    columns = ["cell", "kind", "patients", "seed", "segmenter_seed", "state", "covers", "row", "model", "nfe", "count"]
    scores = [f"{score}{end}" for score in ("dice_lv_endo", "accuracy") for end in ("", "_low", "_high")]
    assert sorted(pd.read_csv(tmp_path / "results.csv").columns) == sorted([*columns, *scores])
    assert "look" not in build(tmp_path).partition("<body>")[2].lower()


def test_settings_are_whole_numbers_in_the_table(tmp_path: Path) -> None:
    """An imported cell has no seed; the others' became floats, of which six digits were written."""
    cells = {"real": {"kind": "real"}, "sdm": {"kind": "imported", "dataset": 650}}
    seeds = [20240101, 20240102, 2**63 - 1]
    spec = SweepSpec.model_validate(GRID | {"seeds": seeds, "count": 1_000_000, "cells": cells})
    built = build_cells(spec, FINGERPRINTS | {"dataset 650": "c"})
    Results(spec, built, runner_in(tmp_path).workspace).write_table()
    table = pd.read_csv(tmp_path / "results.csv", dtype=str).set_index("cell")
    assert [table.loc[f"edm-l64_nfe5_seed{s}", "seed"] for s in seeds] == [str(s) for s in seeds]
    assert pd.isna(table.loc["sdm", "seed"])
    assert set(table["count"].dropna()) == {"1000000"}
    assert len(read_sweep_results(tmp_path / "results.csv")) == len(built)


def test_images_that_were_removed_keep_no_results_back(tmp_path: Path) -> None:
    """Of a finished sweep whose images made room for others; it ended in a RuntimeError."""
    spec = SweepSpec.model_validate(GRID)
    cells = build_cells(spec, FINGERPRINTS)
    workspace = runner_in(tmp_path).workspace
    drawn = cells[1].stages[0]
    for stage in (drawn, *cells[1].stages[1:2]):
        write_json(workspace.folder(stage) / "done.json", {"seconds_per_image": 1.0})
    Results(spec, cells, workspace).publish()
    assert (tmp_path / "results.csv").is_file()
    with pytest.raises(
        DataError, match=f"{workspace.folder(drawn)}: no Dataset601_. there; delete the folder .* makes it again"
    ):
        workspace.drawn(drawn)
    with pytest.raises(DataError, match=r"no results/Dataset.*fold_0 there; delete the folder"):
        workspace.trained(cells[1].stages[1])


@pytest.mark.parametrize("name", ["metrics.json", "per_case.csv"])
def test_a_damaged_result_says_how_to_make_it_again(name: str, tmp_path: Path) -> None:
    spec = SweepSpec.model_validate(GRID)
    cells = build_cells(spec, FINGERPRINTS)
    results = Results(spec, cells, runner_in(tmp_path).workspace)
    stage = cells[0].stages[-1]
    folder = results.workspace.folder(stage)
    write_json(folder / "done.json", {})
    write_json(results.workspace.result(stage) / "metrics.json", {})
    (results.workspace.result(stage) / name).write_text("{ half of it")
    with pytest.raises(DataError, match=rf"{name}.*; delete the folder {folder}, and the same sweep makes it again"):
        results.scores_of("real") if name == "per_case.csv" else results.publish()
