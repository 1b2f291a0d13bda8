"""Pairs of cells, compared on the same held-out images."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_synth.evaluation.statistics import Resampling
from echo_synth.experiment.comparisons import compare_cells
from echo_synth.report.blocks import keep_together
from echo_synth.report.page import build
from tests.experiment.sweeps import scores_of
from tests.report.tables import sweep_table


def test_pairs_of_cells_are_compared_once_both_are_done(tmp_path: Path) -> None:
    pairs = {"one": ("a", "b"), "other_way": ("b", "a"), "waiting": ("a", "c")}
    table = compare_cells(pairs, {"a": scores_of(0.1), "b": scores_of(0)}, Resampling(200))
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
    assert compare_cells(pairs, {"a": scores_of(0.1)}, Resampling(200)).empty
    sweep_table().to_csv(tmp_path / "results.csv", index=False)
    table.to_csv(tmp_path / "comparisons.csv", index=False)
    page = build(tmp_path)
    assert "other way" in page
    assert "+0.067 [" in page
    assert "], p\u00a00." in page
    assert keep_together("0.1 [0.0, 0.2], p < 0.001") == "0.1 [0.0,\u00a00.2], p\u00a0<\u00a00.001"
