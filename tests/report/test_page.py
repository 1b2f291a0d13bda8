"""The page: what it shows, and that regions are told apart."""

from __future__ import annotations

import re
from pathlib import Path

from echo_synth.files import write_json
from echo_synth.report import figures, sweep_figures
from echo_synth.report.page import build
from tests.report.tables import sweep_table


def test_the_report_shows_a_sweep_and_nothing_twice(tmp_path: Path) -> None:
    sweep_table().to_csv(tmp_path / "results.csv", index=False)
    front = sweep_figures.cost_front(sweep_table())
    assert front is not None
    (tmp_path / "pareto.png").write_bytes(figures.png(front))
    other = tmp_path / "other/work/evaluate-mine/result"  # looks like a sweep's stage and is none
    for folder in (tmp_path / "work/evaluate-0123456789ab/result", other):
        folder.mkdir(parents=True)
        write_json(folder / "metrics.json", {})
    page = build(tmp_path)
    assert "0.900 [0.880,\u00a00.910]" in page
    assert "Dice of the LV endocardium against seconds an image" in page
    assert "1/5" in page
    assert page.count("<h2>Evaluation: ") == 1


def test_datasets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Every stage of a sweep draws as the same number; regions of a page must differ in name."""
    for place in ("work/data-a/Dataset601_EDM-L64_nfe20", "work/data-b/Dataset601_EDM-L64_nfe20", "Dataset601_EDM"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "preview.png").write_bytes(b"")
    labels = re.findall(r'aria-label="([^"]*)"', build(tmp_path))
    assert len(labels) == len(set(labels)) == 3
    assert "How it was drawn, Dataset601_EDM" in labels
