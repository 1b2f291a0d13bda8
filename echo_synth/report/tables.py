"""metrics.json as text: the terminal's table and summary.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from echo_synth.evaluation.case_scores import METRICS

STRUCTURES = {"lv_endo": "LV endocardium", "lv_epi": "LV epicardium", "la": "Left atrium"}
VOLUMES = {"edv_ml": "EDV, ml", "esv_ml": "ESV, ml", "ef_percent": "EF, %"}
_VIEWS = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "f1": "F1 (macro)",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
}
_AGAINST_CFG = {
    "EF, % against the cfg": "ef_percent_against_cfg",
    "reference masks' EF against the cfg": "reference_ef_percent_against_cfg",
}
FEW = 10  # patients, below which an interval says less than it seems to
HOW_TO_READ = "mean [patient-level 95 % interval]"
Rows = list[list[str]]


@dataclass(frozen=True)
class Section:
    """A table with its title and a sentence that says how to read it; the first row is the header."""

    title: str
    rows: Rows
    note: str = ""


def cell(entry: Mapping[str, Any] | None, digits: int) -> str:
    """'0.912 [0.900, 0.923]': mean and patient-level 95 % interval, where there are patients enough for one.

    The paper's "±" (`std`, the spread over subsets of 80 % of the images) is about 0.3 times the
    standard error over patients; beside an interval it would be read as one, so it stays in metrics.json.
    """
    if not entry or entry.get("mean") is None:
        return "–"
    text = f"{entry['mean']:.{digits}f}"
    interval = entry.get("ci95")
    if not interval or None in interval or entry.get("n_patients") in (0, 1):
        return text
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    """Every table of a metrics.json."""
    result: list[Section] = []
    if metrics.get("segmentation"):
        result.append(_segmentation(metrics["segmentation"]))
    if metrics.get("volumes"):
        result.append(_volumes(metrics["volumes"]))
    result += _paired(metrics)
    if metrics.get("groups"):
        result.append(_groups(metrics["groups"]))
    if metrics.get("classification"):
        result.append(_views(metrics["classification"]))
    return result


def _views(entries: Mapping[str, Any]) -> Section:
    rows = [[label, cell(entries[k], 3)] for k, label in _VIEWS.items() if k in entries]
    note = few_patients(entries.get("accuracy") or {})
    return Section("View classification", [["Measure", "Value"], *rows], note)


def _segmentation(entries: Mapping[str, Any]) -> Section:
    rows = [["Structure", *(metric.heading for metric in METRICS.values()), "Empty"]]
    for key, entry in entries.items():
        cells = [cell(entry.get(name), metric.digits) for name, metric in METRICS.items()]
        rows.append([STRUCTURES.get(key, key), *cells, _count(entry.get("empty_predictions"))])
    first = next(iter(entries.values())).get("dice") or {}
    counts = f"{_count(first.get('n_images'))} images of {_count(first.get('n_patients'))} patients"
    note = "An empty prediction has Dice 0 and the image's diagonal as its distances."
    return Section(f"Segmentation, {counts}", rows, f"{note} {few_patients(first)}".strip())


def few_patients(entry: Mapping[str, Any]) -> str:
    """What to say of an interval that rests on fewer than ten patients; empty where there are more."""
    patients = entry.get("n_patients")
    if patients is None or patients >= FEW:
        return ""
    if patients < 2:
        return "One patient: no interval can be given."
    return f"Only {patients} patients: intervals over so few are too narrow."


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _volumes(entries: Mapping[str, Any]) -> Section:
    rows = [["Measure", "Bias", "Limits of agreement", "Mean absolute error", "r", "Patients"]]
    rows += [_agreement(label, entries[k]) for k, label in VOLUMES.items()]
    rows += [_agreement(f"{label}, clinical", entries["clinical"][k]) for k, label in VOLUMES.items()]
    rows += [_agreement(label, entries[k]) for label, k in _AGAINST_CFG.items() if entries.get(k)]
    note = (
        "Biplane method of discs against the reference masks, in CAMUS's convention (one disc height for both phases) "
        "unless the row says clinical (each phase its own)."
    )
    return Section("Volumes and ejection fraction", rows, note)


def _agreement(label: str, entry: Mapping[str, Any]) -> list[str]:
    low, high = entry["loa"]
    limits = f"{_number(low)} to {_number(high)}"
    return [label, _number(entry["bias"]), limits, _number(entry["mae"]), _number(entry["r"], 3), str(entry["n"])]


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _paired(metrics: Mapping[str, Any]) -> Iterator[Section]:
    for name, structures in (metrics.get("paired_baselines") or {}).items():
        rows = [["Structure", *(f"Δ {metric.heading}" for metric in METRICS.values())]]
        for key, entry in structures.items():
            cells = [_tested(entry.get(name), metric.digits) for name, metric in METRICS.items()]
            rows.append([STRUCTURES.get(key, key), *cells])
        note = "Predictions minus baseline on the same images; p by flipping patients' signs, after Holm's correction."
        yield Section(f"Difference to {name}", rows, note)


def _tested(entry: Mapping[str, Any] | None, digits: int) -> str:
    """A difference with its interval, and its p-value where it was tested."""
    p = (entry or {}).get("p_holm")
    return cell(entry, digits) if p is None else f"{cell(entry, digits)}, p {_p(p)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _groups(groups: Mapping[str, Any]) -> Section:
    dices = [f"{label}, Dice" for label in STRUCTURES.values()]
    rows = [["Group", "Images", "Patients", *dices, "LV endocardium, Hausdorff mm"]]
    rows += [_group(f"{group} {name}", entry) for group, members in groups.items() for name, entry in members.items()]
    note = f"Groups of one patient have no interval; over fewer than {FEW} patients intervals are too narrow."
    return Section("By view, phase and image quality", rows, note)


def _group(name: str, entry: Mapping[str, Any]) -> list[str]:
    scores = {structure: entry.get(structure) or {} for structure in STRUCTURES}
    endo = scores["lv_endo"]
    counted = endo.get("dice") or {}
    patients = counted.get("n_patients")
    marked = f"{patients} (few)" if patients is not None and patients < FEW else _count(patients)
    dices = [cell(s.get("dice"), 3) for s in scores.values()]
    return [name, _count(counted.get("n_images")), marked, *dices, cell(endo.get("hd_mm"), 2)]


SWEEP_SCORES = {
    "dice_lv_endo": ("Dice, LV endocardium", 3),
    "dice_lv_epi": ("Dice, LV epicardium", 3),
    "dice_la": ("Dice, left atrium", 3),
    "hd_mm_lv_endo": ("Hausdorff LV endocardium, mm", 2),
    "difference_dice_lv_endo": ("Δ Dice LV endocardium to the reference", 3),
    "accuracy": ("View accuracy", 3),
}


def sweep_rows(table: pd.DataFrame) -> Rows:
    """The readable part of a sweep's results.csv: one row a cell, mean and patient-level interval of each score."""
    scores = {k: v for k, v in SWEEP_SCORES.items() if k in table and table[k].notna().any()}
    rows = [["Cell", "Images", "Seconds an image", *(label for label, _ in scores.values()), "Stages"]]
    for _, row in table.iterrows():
        images = f"{row['count']:.0f}" if pd.notna(row.get("count")) else "–"
        seconds = f"{row['seconds_per_image']:.2g}" if pd.notna(row.get("seconds_per_image")) else "–"
        cells = [_interval(row, key, digits) for key, (_, digits) in scores.items()]
        rows.append([str(row["cell"]), images, seconds, *cells, str(row["state"])])
    return rows


COMPARISON_NAMES = ("comparison", "cell", "baseline")  # free text in a spec: "NA" is a name


def comparison_rows(table: pd.DataFrame) -> Rows:
    """The readable part of a sweep's comparisons.csv: one row a pair, Dice of each structure and Hausdorff distance."""
    shown = {k: SWEEP_SCORES[k] for k in ("dice_lv_endo", "dice_lv_epi", "dice_la", "hd_mm_lv_endo")}
    rows = [["Comparison", "Cell", "Minus", *(f"Δ {label}" for label, _ in shown.values())]]
    for (name, cell_name, baseline), entries in table.groupby(list(COMPARISON_NAMES), sort=False):
        by_score = {f"{e['metric']}_{e['structure']}": e for e in entries.to_dict("records")}
        cells = [_difference(by_score.get(k), digits) for k, (_, digits) in shown.items()]
        rows.append([str(name).replace("_", " "), str(cell_name), str(baseline), *cells])
    return rows


def _difference(entry: Mapping[Any, Any] | None, digits: int) -> str:
    if entry is None or pd.isna(entry["difference"]):
        return "–"
    mean, low, high = (f"{entry[k]:+.{digits}f}" for k in ("difference", "low", "high"))
    return f"{mean} [{low}, {high}], p {_p(entry['p_holm'])}"


def _interval(row: pd.Series[Any], key: str, digits: int) -> str:
    if pd.isna(row[key]):
        return "–"
    return f"{row[key]:.{digits}f} [{row[f'{key}_low']:.{digits}f}, {row[f'{key}_high']:.{digits}f}]"


def markdown(rows: Rows) -> str:
    """Rows, the first of them the header, as a Markdown table."""
    lines = ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def summary(metrics: Mapping[str, Any]) -> str:
    """summary.md."""
    parts = ["# Evaluation\n", f"{HOW_TO_READ}\n"]
    for section in sections(metrics):
        parts += [f"## {section.title}\n", markdown(section.rows), *([section.note + "\n"] if section.note else [])]
    return "\n".join(parts)
