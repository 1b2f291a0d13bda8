"""bootstrap-eval from end to end: find the inputs, score, write the result folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.device import training_device
from echo_synth.downstream import classifier as view_classifier
from echo_synth.errors import DataError
from echo_synth.evaluation import patient_volumes, segmentation, statistics
from echo_synth.evaluation.statistics import Resampling
from echo_synth.files import check_writable, write_atomic, write_bytes, write_json, write_text
from echo_synth.home import home, nnunet_folder
from echo_synth.report import evaluation_figures as figures
from echo_synth.report import tables
from echo_synth.runs.folder import open_run

WORST = 8


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


@dataclass(frozen=True)
class Inputs:
    """What is judged.

    Attributes:
        predictions, references: folders of masks, CASE.nii.gz; both or neither.
        cases: cases.csv; by default the one beside the references, where there is one.
        baselines: folders of other predictions of the same cases.
        classifier, images: run folder and classification folder; both or neither.
    """

    predictions: Path | None = None
    references: Path | None = None
    cases: Path | None = None
    baselines: Sequence[Path] = ()
    classifier: Path | None = None
    images: Path | None = None


@dataclass
class Scores:
    """Tables of one evaluation, as far as there was something to judge."""

    per_case: pd.DataFrame | None = None
    baselines: dict[str, pd.DataFrame] = field(default_factory=dict)
    volumes: pd.DataFrame | None = None
    views: pd.DataFrame | None = None


def evaluate(inputs: Inputs, how: Resampling, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Score whatever is given; write metrics.json, tables, summary.md and plots into `folder`."""
    check_writable(folder)
    scores = _score(inputs)
    metrics = _metrics(scores, how) | {"settings": dict(settings)}
    _write(folder, metrics, scores)
    if inputs.predictions is not None and inputs.references is not None and scores.per_case is not None:
        worst = _worst(scores.per_case, inputs.predictions, inputs.references)
        write_bytes(folder / "worst.png", figures.png(figures.worst_cases(worst)))
    return metrics


def _score(inputs: Inputs) -> Scores:
    scores = Scores()
    facts = _case_facts(inputs.cases, inputs.references)
    if inputs.predictions is not None and inputs.references is not None:
        # All that can be wrong with a folder's names is said before the first mask is compared.
        for folder in (inputs.predictions, *inputs.baselines):
            segmentation.pair_cases(folder, inputs.references)
        per_case = segmentation.score_folder(inputs.predictions, inputs.references)
        scores.baselines = {
            name: segmentation.score_folder(path, inputs.references) for name, path in _named(inputs.baselines).items()
        }
        cases = per_case["case"].unique()
        scores.volumes = patient_volumes.compare_volumes(inputs.predictions, inputs.references, cases, facts)
        if facts is not None:
            per_case = per_case.merge(facts.drop(columns=["patient"]), on="case", how="left")
        scores.per_case = per_case
    if inputs.classifier is not None and inputs.images is not None:
        run = open_run(inputs.classifier, "classifier")
        scores.views = view_classifier.predict_views(run, inputs.images, training_device("auto"))
    return scores


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their names; by their whole paths where two names are the same."""
    names = [f.resolve().name for f in folders]
    return {n if names.count(n) == 1 else str(f): f for n, f in zip(names, folders, strict=True)}


def _metrics(scores: Scores, how: Resampling) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    if scores.per_case is not None:
        metrics["segmentation"] = statistics.segmentation_metrics(scores.per_case, how)
        metrics["groups"] = statistics.grouped_metrics(scores.per_case, how)
    if scores.volumes is not None and len(scores.volumes):
        metrics["volumes"] = patient_volumes.volume_metrics(scores.volumes)
    if scores.per_case is not None and scores.baselines:
        paired = statistics.paired_metrics(scores.per_case, scores.baselines, how)
        metrics["paired"] = next(iter(paired.values()))
        metrics["paired_baselines"] = paired
    if scores.views is not None:
        metrics["classification"] = statistics.classification_metrics(scores.views, how)
    return metrics


def _case_facts(cases: Path | None, references: Path | None) -> pd.DataFrame | None:
    """Columns case, patient and those known of quality, ef, sex, age."""
    path = cases or (references.parent / "cases.csv" if references else None)
    if path is None or not path.is_file():
        if cases is not None:
            raise DataError(f"{cases}: missing; expected the cases.csv of convert-camus")
        return None
    table = pd.read_csv(path, dtype={"case": str, "patient": str})
    lacking = {"case", "patient"} - set(table)
    if lacking:
        raise DataError(f"{path}: no column '{min(lacking)}'; expected the cases.csv of convert-camus")
    return table[["case", "patient", *(c for c in ("quality", "ef", "sex", "age") if c in table)]]


def _worst(per_case: pd.DataFrame, predictions: Path, references: Path) -> list[figures.Overlay]:
    """The cases of lowest mean Dice, with their images where the dataset has them."""
    order = per_case.groupby("case")["dice"].mean().sort_values().head(WORST)
    result = []
    for case, score in order.items():
        mask = read_image(predictions / f"{case}{ENDING}").pixels
        reference = read_image(references / f"{case}{ENDING}")
        truth, (height, width) = reference.pixels, reference.spacing
        file = references.parent / references.name.replace("labels", "images") / f"{case}_0000{ENDING}"
        image: NDArray[Any] = read_image(file).pixels if file.is_file() else np.zeros(truth.shape, np.uint8)
        result.append(figures.Overlay(f"{case}: Dice {score:.2f}", image, mask, truth, height / width))
    return result


def _write(folder: Path, metrics: dict[str, Any], scores: Scores) -> None:
    for name, table in (("per_case", scores.per_case), ("volumes", scores.volumes), ("views", scores.views)):
        if table is not None and len(table):
            write_atomic(folder / f"{name}.csv", lambda p, t=table: t.to_csv(p, index=False))  # type: ignore[misc]
    if scores.per_case is not None:
        first = next(iter(scores.baselines.items()), None)
        write_bytes(folder / "scores.png", figures.png(figures.score_boxes(scores.per_case, first)))
    if "volumes" in metrics and scores.volumes is not None:
        write_bytes(folder / "bland_altman.png", figures.png(figures.bland_altman(scores.volumes, metrics["volumes"])))
    if scores.views is not None:
        truth, probability = statistics.truth_and_probability(scores.views)
        write_bytes(folder / "classification.png", figures.png(figures.classification(truth, probability)))
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "settings.json", metrics["settings"])
    write_text(folder / "summary.md", tables.summary(metrics))
