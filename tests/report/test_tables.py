"""Tables of an evaluation: what names, tests and counts look like in the terminal and in summary.md."""

from __future__ import annotations

import pytest

from cli.evaluate_commands import _print_tables
from echo_synth.report.tables import summary

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
