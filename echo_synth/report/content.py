"""What a folder holds that a page can show: sweeps, evaluations, judged datasets, datasets, training runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from echo_synth.files import read_json
from echo_synth.report import figures, tables
from echo_synth.report.blocks import Block, Gallery, Note, PageSection, Picture, Settings, Table, pictures_in
from echo_synth.report.quality_tables import quality_rows

# What each command draws: file, alternative text, caption.
_EVALUATION_PICTURES = {
    "scores.png": (
        "Box plots of Dice and Hausdorff distance by structure",
        "Each point is one held-out image; with a baseline, a line joins the same image's two points.",
    ),
    "bland_altman.png": (
        "Bland-Altman plots of end-diastolic volume, end-systolic volume and ejection fraction",
        "Each point is a patient; solid line: bias, dashed: limits of agreement.",
    ),
    "classification.png": (
        "Confusion matrix and reliability curve of the view classifier",
        "Left: counts of held-out images. Right: observed share against claimed probability, area by number of images.",
    ),
    "worst.png": (
        "The eight cases of lowest Dice with predicted and reference outlines",
        "The worst cases: prediction solid in the colours of the label maps, reference dashed white.",
    ),
}
_SWEEP_PICTURES = {
    "images.png": (
        "Images by model and number of network evaluations, all of one label map",
        "One label map drawn by every model at every number of network evaluations (NFE).",
    ),
    "scores.png": (
        "Dice, Hausdorff distance and view accuracy against the number of network evaluations",
        "What models trained on synthetic images alone reach on real patients; bands: patient-level 95 % intervals, dashed: trained on real images, dotted: on noise.",
    ),
    "throughput.png": (
        "Images a second against the number of network evaluations",
        "Throughput as measured while the sweep ran.",
    ),
    "pareto.png": (
        "Dice of the LV endocardium against seconds an image",
        "The grey line joins the cells that no other beats in both; numbers are NFE.",
    ),
}
_QUALITY_PICTURES = {
    "quality.png": (
        "Intensity histograms, agreement with the guiding maps, similarity to the nearest training image",
        "Intensity histograms, agreement with the guiding maps, similarity to the nearest training image.",
    ),
    "nearest.png": (
        "The six synthetic images nearest to a training image, above that training image",
        "The six synthetic images nearest to a training image, above that training image.",
    ),
}
_STAGE = re.compile(r"evaluate-[0-9a-f]{12}")
_DATASET_SETTINGS = ("model", "size", "nfe", "solver", "count", "seed", "precision", "trained_on")


def sections_of(folder: Path) -> list[PageSection]:
    """Everything found below `folder`, in the order in which it is read."""
    return [*_sweeps(folder), *_evaluations(folder), *_qualities(folder), *_datasets(folder), *_runs(folder)]


def _sweeps(folder: Path) -> Iterator[PageSection]:
    for file in sorted(folder.rglob("results.csv")):
        table = pd.read_csv(file)
        if "cell" not in table:
            continue
        name = str(file.parent.relative_to(folder)) if file.parent != folder else folder.name
        cells = Table(tables.sweep_rows(table), "Cells, each judged on the held-out real patients", name)
        blocks: list[Block] = [cells, Note("mean [patient-level 95 % interval]")]
        blocks += _comparisons(file.parent / "comparisons.csv", name)
        yield PageSection(f"Experiment: {name}", [*blocks, *pictures_in(file.parent, _SWEEP_PICTURES)])


def _comparisons(file: Path, sweep: str) -> Iterator[Block]:
    if not file.is_file():
        return
    text_columns = dict.fromkeys(tables.COMPARISON_NAMES, str)
    table = pd.read_csv(file, dtype=text_columns, keep_default_na=False, na_values=[""])
    yield Table(tables.comparison_rows(table), "Pairs of cells on the same images", sweep)
    yield Note(
        "cell minus the other [patient-level 95 % interval]; p by flipping patients’ signs, "
        "after Holm’s correction over the pairs, each column by itself"
    )


def _in_a_sweep(file: Path) -> bool:
    """Whether a file is some SWEEP/work/evaluate-…/result/metrics.json beside a SWEEP/results.csv."""
    stage = file.parent.parent
    return bool(_STAGE.fullmatch(stage.name)) and (stage.parent.parent / "results.csv").is_file()


def _evaluations(folder: Path) -> Iterator[PageSection]:
    for file in sorted(folder.rglob("metrics.json")):
        if _in_a_sweep(file):
            continue  # a cell, which the sweep's table shows
        metrics = read_json(file)
        name = str(file.parent.relative_to(folder)) or file.parent.name
        blocks: list[Block] = [Note("mean ± standard deviation over bootstrap repeats [patient-level 95 % interval]")]
        for section in tables.sections(metrics):
            blocks.append(Table(section.rows, section.title, name))
            blocks += [Note(section.note)] if section.note else []
        blocks += pictures_in(file.parent, _EVALUATION_PICTURES)
        yield PageSection(f"Evaluation: {name}", [*blocks, Settings(metrics.get("settings", {}))])


def _qualities(folder: Path) -> Iterator[PageSection]:
    results = {file: read_json(file) for file in sorted(folder.rglob("quality.json"))}
    names = _told_apart({file: result["dataset"] for file, result in results.items()}, folder)
    for file, result in results.items():
        rows = [["Measure", "Value"], *([measure, value] for measure, value in quality_rows(result))]
        blocks: list[Block] = [
            Table(rows, "Against the real data", names[file]),
            *pictures_in(file.parent, _QUALITY_PICTURES),
        ]
        yield PageSection(f"Quality: {names[file]}", [*blocks, Settings(result.get("settings", {}))])


def _told_apart(names: Mapping[Path, str], folder: Path) -> dict[Path, str]:
    """Names by file; where two are the same, as in the stages of a sweep, with the place of the file."""
    repeated = {name for name, count in Counter(names.values()).items() if count > 1}
    return {f: f"{name} ({f.parent.relative_to(folder)})" if name in repeated else name for f, name in names.items()}


def _datasets(folder: Path) -> Iterator[PageSection]:
    names = _told_apart({f: f.parent.name for f in sorted(folder.rglob("preview.png"))}, folder)
    for file, dataset in names.items():
        settings_file = file.parent / "settings.json"
        settings = read_json(settings_file) if settings_file.is_file() else {}
        rows = [["Setting", "Value"], *([k, str(settings[k])] for k in _DATASET_SETTINGS if k in settings)]
        preview = Picture(
            file.read_bytes(),
            "Grid of synthetic echocardiograms above their label maps",
            "The first images of the dataset, each above the map it was drawn from.",
        )
        blocks: list[Block] = [preview, Table(rows, "How it was drawn", dataset), Settings(settings)]
        yield PageSection(f"Synthetic dataset: {dataset}", blocks)


def _runs(folder: Path) -> Iterator[PageSection]:
    curves = [c for file in sorted(folder.rglob("history.csv")) if (c := _loss_curves(file)) is not None]
    if curves:
        yield PageSection("Training", [Gallery(curves)])


def _loss_curves(file: Path) -> Picture | None:
    history, run = pd.read_csv(file), file.parent.name
    if history.empty:
        return None
    png = figures.png(figures.history_curves(history, run))
    return Picture(png, f"Loss curves of {run}", f"{run}: {history['images'].max()} images seen")
