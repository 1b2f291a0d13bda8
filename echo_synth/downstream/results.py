"""bootstrap-eval from end to end: find the inputs, score, write the result folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth import registry
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.downstream import classifier as view_classifier
from echo_synth.downstream import evaluation
from echo_synth.errors import DataError
from echo_synth.files import check_writable, write_atomic, write_bytes, write_json, write_text
from echo_synth.home import home, nnunet_folder
from echo_synth.report import figures, tables


def newest_predictions() -> Path:
    """The newest folder of ECHOSYNTH_HOME/predictions. Raises DataError when there is none."""
    found = [p for p in (home() / "predictions").glob("*") if any(p.glob(f"*{ENDING}"))]
    if not found:
        raise DataError(f"{home() / 'predictions'}: no predictions there; pass --predictions")
    return max(found, key=lambda p: p.stat().st_mtime)


def references_of(predictions: Path) -> Path:
    """labelsTs of the raw dataset that holds the predicted cases. Raises DataError when none does."""
    names = {f.name for f in predictions.glob(f"*{ENDING}")}
    if not names:
        raise DataError(f"{predictions}: no *{ENDING} files; expected segmentations")
    for folder in sorted(nnunet_folder("nnUNet_raw").glob("Dataset*/labelsTs")):
        if names <= {f.name for f in folder.glob(f"*{ENDING}")}:
            return folder
    raise DataError(
        f"{predictions}: no dataset in {nnunet_folder('nnUNet_raw')} holds these cases in labelsTs; pass --references"
    )


def evaluate(
    predictions: Path | None, references: Path | None, cases: Path | None, classifier: Path | None, images: Path | None,
    baseline: Path | None, repeats: int, seed: int, folder: Path, settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Score whatever is given; write metrics.json, per_case.csv, summary.md and plots into `folder`."""
    check_writable(folder)
    metrics: dict[str, Any] = {}
    per_case: pd.DataFrame | None = None
    if predictions is not None and references is not None:
        per_case = evaluation.score_folder(predictions, references)
        metrics["segmentation"] = evaluation.segmentation_metrics(per_case, repeats, seed)
        if baseline is not None:
            other = evaluation.score_folder(baseline, references)
            metrics["paired"] = evaluation.paired_metrics(per_case, other, repeats, seed)
    predicted: pd.DataFrame | None = None
    if classifier is not None and images is not None:
        run = registry.open_run(classifier, "classifier")
        predicted = view_classifier.predict_views(run, images, registry.training_device("auto"))
        metrics["classification"] = evaluation.classification_metrics(predicted, repeats, seed)
    metrics["settings"] = dict(settings)
    _write(folder, metrics, per_case, predicted, _case_facts(cases, references))
    return metrics


def _case_facts(cases: Path | None, references: Path | None) -> pd.DataFrame | None:
    path = cases or (references.parent / "cases.csv" if references else None)
    if path is None or not path.is_file():
        if cases is not None:
            raise DataError(f"{cases}: missing; expected the cases.csv of convert-camus")
        return None
    table = pd.read_csv(path, dtype={"case": str})
    return table[[c for c in ("case", "quality", "ef", "sex", "age") if c in table]]


def _write(
    folder: Path,
    metrics: dict[str, Any],
    per_case: pd.DataFrame | None,
    predicted: pd.DataFrame | None,
    facts: pd.DataFrame | None,
) -> None:
    if per_case is not None:
        table = per_case.merge(facts, on="case", how="left") if facts is not None else per_case
        write_atomic(folder / "per_case.csv", lambda p: table.to_csv(p, index=False))
        write_bytes(folder / "scores.png", figures.png(figures.score_boxes(per_case)))
    if predicted is not None:
        write_atomic(folder / "views.csv", lambda p: predicted.to_csv(p, index=False))
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "settings.json", metrics["settings"])
    write_text(folder / "summary.md", tables.summary(metrics))
