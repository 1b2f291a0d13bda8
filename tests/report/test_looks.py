"""Looks and what they teach: signs that a reader can trust, tables, the figure, files of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echo_synth.report import looks_figures
from echo_synth.report.looks_tables import correlation_rows, few_note, judged_datasets, looks_rows, turned
from echo_synth.report.page import build
from tests.report.tables import sweep_table

_PAIRS = (
    ("agreement", "high", "dice_lv_endo", "high", 0.5),
    ("agreement", "high", "ef_mae", "low", -0.5),
    ("grain_difference", "low", "dice_lv_endo", "high", -0.5),
    ("grain_difference", "low", "ef_mae", "low", 0.5),
)


def _correlations() -> pd.DataFrame:
    """Four pairs, all of which say the same: what looks more real teaches better, by 0.5 [0.2, 0.9]."""
    names = ["measure", "real_is", "outcome", "better_is", "rho"]
    table = pd.DataFrame(_PAIRS, columns=names).assign(cells=5, patients=12)
    up = table["rho"] > 0
    return table.assign(low=np.where(up, 0.2, -0.9), high=np.where(up, 0.9, -0.2))


def _results() -> pd.DataFrame:
    """`sweep_table`, whose five datasets were judged."""
    return sweep_table().assign(agreement=[0.6, 0.7, 0.8, 0.3, 0.9, None], grain_ratio=[0.8, 0.9, 1.0, 0.2, 1.1, None])


def test_signs_are_turned_so_that_plus_says_more_real_teaches_better() -> None:
    table = turned(_correlations())
    assert table["rho"].tolist() == [0.5] * 4
    assert table["low"].tolist() == [0.2] * 4
    assert table["high"].tolist() == [0.9] * 4
    rows = correlation_rows(_correlations())
    assert rows[0] == ["Measure of looks", "Dice, LV endocardium", "mean absolute error of EF"]
    assert [row[1:] for row in rows[1:]] == [["+0.50 [+0.20, +0.90]; 5 datasets"] * 2] * 2


def test_a_dataset_is_one_row_whatever_trains_on_it() -> None:
    results = _results()
    repeats = [results.assign(cell=results["cell"] + f"_train{s}", segmenter_seed=s) for s in (0, 1)]
    repeats[1]["dice_lv_endo"] -= 0.1
    both = judged_datasets(pd.concat(repeats, ignore_index=True))
    assert both["dataset"].tolist() == judged_datasets(results)["dataset"].tolist() == results["cell"].tolist()[:5]
    assert both["dice_lv_endo"].tolist() == pytest.approx([d - 0.05 for d in results["dice_lv_endo"][:5]])
    rows = looks_rows(pd.concat(repeats, ignore_index=True))
    assert rows[0] == [
        "Dataset",
        "Agreement with the maps, Dice (real: high)",
        "Grain's strength relative to real (real: 1)",
    ]
    assert rows[1] == ["edm-l64_nfe5_seed0", "0.6", "0.8"]
    assert looks_rows(sweep_table()) == [["Dataset"]]


def test_pairs_without_enough_datasets_are_named() -> None:
    results = _results()
    given = _correlations()[lambda t: t["outcome"] == "dice_lv_endo"]
    assert few_note(results, given) == ""
    assert few_note(sweep_table(), None) == ""
    fewer = results.assign(grain_ratio=[0.8, None, 1.0, None, None, None])
    note = few_note(fewer, given[given["measure"] == "agreement"])
    assert note.endswith("Grain's strength relative to real with Dice, LV endocardium (2 datasets).")
    assert "it needs 4 datasets that have both, found 3" in few_note(results.iloc[:3], None)


def test_rows_with_the_same_images_are_one_dataset() -> None:
    """Four rows of the grid, two of them of the same images: three datasets, so that no correlation is given, and that is told."""
    results = _results().iloc[:4]
    names = results["cell"].tolist()
    results = results.assign(images_of=[*names[:3], names[0]])
    assert judged_datasets(results)["dataset"].tolist() == names[:3]
    assert len(looks_rows(results)) == 4
    assert "it needs 4 datasets that have both, found 3" in few_note(results, None)
    assert few_note(results.assign(images_of=names), _correlations()) == ""


def test_the_figure_shows_every_pair_and_every_dataset() -> None:
    drawn = looks_figures.looks(_results(), _correlations())
    assert drawn is not None
    forest, agreement, grain = (axis for axis in drawn.axes if axis.axison)
    points = {c.get_label(): c.lines[0].get_xdata() for c in forest.containers}
    assert {label: list(x) for label, x in points.items()} == {
        "Dice, LV endocardium": [0.5, 0.5],
        "mean absolute error of EF": [0.5, 0.5],
    }
    for axis, column in ((agreement, "agreement"), (grain, "grain_ratio")):
        x = sorted(float(v) for c in axis.collections for v in np.asarray(c.get_offsets())[:, 0])
        assert x == sorted(_results()[column].dropna())
        assert [line.get_ydata()[0] for line in axis.lines if line.get_label() == "real"] == [0.93]  # type: ignore[index]
    assert "more real →" in agreement.get_xlabel()
    assert "real is 1" in grain.get_xlabel()
    assert looks_figures.looks(_results(), _correlations().iloc[:0]) is None
    undefined = _correlations().assign(rho=np.nan, low=np.nan, high=np.nan)
    assert looks_figures.looks(_results(), undefined) is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"real_is": "x"}, "column 'real_is', row 1: found 'x', expected low or high"),
        ({"rho": 2.0}, "column 'rho', row 1: found"),
        ({"outcome": "<script>"}, "column 'outcome', row 1"),
        ({"low": None}, "no column 'low'"),
    ],
)
def test_a_damaged_table_is_named_and_keeps_nothing_else_away(
    change: dict[str, object], told: str, tmp_path: Path
) -> None:
    table = _correlations().assign(**{k: v for k, v in change.items() if v is not None})
    table.drop(columns=[k for k, v in change.items() if v is None]).to_csv(tmp_path / "correlations.csv", index=False)
    _results().to_csv(tmp_path / "results.csv", index=False)
    page = build(tmp_path)
    assert "How real the images look" in page
    assert told in page.partition("Left out")[2].replace("&#39;", "'")
    assert "<script>" not in page
