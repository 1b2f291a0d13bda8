"""Tables of an evaluation: what names, tests and counts look like in the terminal and in summary.md."""

from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest

from cli.evaluate_commands import _print_tables
from echo_synth.evaluation.differences import paired_metrics
from echo_synth.evaluation.statistics import Resampling
from echo_synth.experiment.comparisons import compare_cells
from echo_synth.report.tables import comparison_rows, summary

_DIFFERENCE = {"mean": -0.01, "ci95": [-0.02, 0.0], "n_images": 40, "n_patients": 10, "p": 0.03, "p_holm": 0.06}


@pytest.mark.parametrize("name", ["real [v2]", "[/old]", "real|v2"])
def test_names_are_shown_as_they_are(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are no markup in the terminal, and a bar parts no columns of Markdown."""
    monkeypatch.setenv("COLUMNS", "400")
    metrics = {"paired_baselines": {name: {"la": {"dice": _DIFFERENCE}}}}
    _print_tables(metrics)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert f"Difference to {name}" in shown
    assert f"Share of {name}'s Dice" in shown
    lines = summary(metrics).splitlines()
    table = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_what_could_not_be_tested_has_no_p() -> None:
    """One patient: a difference without interval and without a test, which is no p of 1."""
    ours = pd.DataFrame({"case": ["a", "b"], "patient": "p", "structure": "lv_endo", "dice": [0.8, 0.9]})
    ours = ours.assign(hd_mm=5.0, hd95_mm=4.0, assd_mm=1.0, hd_px=9.0)
    theirs = ours.assign(dice=[0.7, 0.6])
    paired = paired_metrics(ours, {"real": theirs}, Resampling(20))
    assert (paired["real"]["lv_endo"]["dice"]["p"], paired["real"]["lv_endo"]["dice"]["p_holm"]) == (None, None)
    told = summary({"paired_baselines": paired})
    assert "0.200, p –" in told
    assert "1.000 |" not in told.replace("1.308", "")
    table = compare_cells({"x": ("c", "b")}, {"c": ours, "b": theirs}, Resampling(20))
    read = pd.read_csv(StringIO(table.to_csv(index=False)))
    assert comparison_rows(read)[1][3] == "+0.200, p –"


def test_groups_are_those_that_are_there() -> None:
    """A spec with some of the heart's structures: its own columns, and counts of what it has; no group that nobody stated."""
    score = {"mean": 0.8, "ci95": [0.7, 0.9], "n_images": 6, "n_patients": 12}
    atrium = {"la": {"dice": score, "hd_mm": score | {"mean": 5.0, "ci95": [4.0, 6.0]}}}
    lines = summary({"groups": {"view": {"2CH": atrium}, "sex": {"F": atrium}}}).splitlines()
    assert "## By view and sex" in lines
    assert "| Group | Images | Patients | Left atrium, Dice | Left atrium, Hausdorff mm |" in lines
    assert "| view 2CH | 6 | 12 | 0.800 [0.700, 0.900] | 5.00 [4.00, 6.00] |" in lines
    whole = {"view": {"2CH": atrium}, "quality": {"Good": atrium}, "ef_class": {"41 to 49": atrium}}
    assert "## By view, image quality and stated EF" in summary({"groups": whole})
