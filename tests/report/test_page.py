"""The page: what it shows, and that regions are told apart."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from echo_synth.files import write_json
from echo_synth.report import figures, sweep_figures
from echo_synth.report.page import build
from tests.report.tables import sweep_table


@pytest.mark.slow
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
    assert "Dice of the LV endocardium and error of the ejection fraction against seconds an image" in page
    assert "1/5" in page
    assert page.count("<h2>Evaluation: ") == 1
    assert "Each row is one training: its intervals know patients alone" in page
    assert "Repeats stand in rows" not in page


def test_the_page_says_what_the_intervals_of_a_sweep_know_of(tmp_path: Path) -> None:
    """Of one training a cell: patients alone; of pairs of which some are repeated: which know both."""
    sweep_table().assign(segmenter_seed=[0, 1, 0, 1, 0, 1], covers="patients").to_csv(
        tmp_path / "results.csv", index=False
    )
    pair = {"comparison": "c", "cell": "a", "baseline": "b", "structure": "la", "metric": "dice", "p_holm": 0.5}
    numbers = {"difference": 0.1, "low": 0.0, "high": 0.2}
    alone, both = (pair | numbers | {"covers": covers} for covers in ("patients", "patients and trainings"))
    said = {
        "alone": ([alone], "One training a cell: intervals and p (flipping patients’ signs) know patients alone"),
        "both": ([both], "know patients and trainings where a pair has repeats (random effects)."),
        "some": ([alone, both], "of single trainings they know patients alone"),
    }
    for rows, words in said.values():
        pd.DataFrame(rows).to_csv(tmp_path / "comparisons.csv", index=False)
        page = build(tmp_path)
        assert words in page
        assert "Repeats stand in rows of their own" in page


def test_datasets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Every stage of a sweep draws as the same number; regions of a page must differ in name."""
    for place in ("work/data-a/Dataset601_EDM-L64_nfe20", "work/data-b/Dataset601_EDM-L64_nfe20", "Dataset601_EDM"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "preview.png").write_bytes(b"")
    labels = re.findall(r'aria-label="([^"]*)"', build(tmp_path))
    assert len(labels) == len(set(labels)) == 3
    assert "How it was drawn, Dataset601_EDM" in labels
