"""The folder that quality leaves: quality.json, quality.csv and two figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_synth.evaluation.dataset_quality_results import Judgement
from echo_synth.files import write_atomic, write_bytes, write_json
from echo_synth.outputs import new_results
from echo_synth.report import quality_figures as figures

FILES = ("quality.json", "quality.csv", "quality.png", "nearest.png")  # the first one comes last


def write_quality(judgement: Judgement, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write a judgement into `folder`, in place of an earlier one once all is written."""
    numbers, table = judgement.numbers, judgement.table
    overview = figures.overview(table, judgement.histograms, numbers["privacy"])
    pairs = [(f"{p.case}\n{p.similarity:.2f}", p.synthetic, p.training) for p in judgement.nearest]
    with new_results(folder, "quality", FILES) as new:
        write_bytes(new / "quality.png", figures.png(overview))
        write_bytes(new / "nearest.png", figures.png(figures.nearest_pairs(pairs), panels=(max(1, len(pairs)), 1)))
        write_atomic(new / "quality.csv", lambda p: table.to_csv(p, index=False))
        write_json(new / "settings.json", dict(settings))
        write_json(new / "quality.json", numbers | {"settings": dict(settings)})
