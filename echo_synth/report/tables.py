"""metrics.json as text: the terminal's table and summary.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from echo_synth.evaluation.case_scores import METRICS
from echo_synth.report.cells import (
    FEW,
    STRUCTURES,
    Rows,
    Section,
    cell,
    difference_note,
    few_patients,
    few_trainings,
    lacking_note,
    of_all,
    p_text,
    structure_names,
    tested,
)
from echo_synth.report.sweep_rows import MONEY
from echo_synth.report.volume_tables import paired_volume_section, volume_sections

_VIEWS = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "f1": "F1 (macro)",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
_GROUP_NAMES = {"quality": "image quality", "age_group": "age", "ef_class": "stated EF"}
PATIENTS = "patients"  # what an interval of one training covers
HOW_TO_READ = "mean [patient-level 95 % interval]"


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    """Every table of a metrics.json."""
    result: list[Section] = []
    if metrics.get("segmentation"):
        result.append(_segmentation(metrics["segmentation"], how_many_trainings(metrics.get("trainings"))))
    if metrics.get("segmentation_native"):
        native = _segmentation(metrics["segmentation_native"], "")
        note = "Predictions brought to the grid of the original masks, which a smaller grid cannot follow exactly."
        result.append(Section(f"{native.title}, on the images' own grid", native.rows, note))
    if metrics.get("failures"):
        result.append(_failures(metrics["failures"]))
    if metrics.get("volumes"):
        result += volume_sections(metrics["volumes"])
    result += _paired(metrics)
    for name, measures in (metrics.get("paired_volumes") or {}).items():
        result.append(paired_volume_section(name, measures))
    if metrics.get("groups"):
        result.append(_groups(metrics["groups"]))
    if metrics.get("classification"):
        result.append(_views(metrics["classification"]))
    return result


def _views(entries: Mapping[str, Any]) -> Section:
    rows = [[label, cell(entries[k], 3)] for k, label in _VIEWS.items() if k in entries]
    slope = entries.get("calibration_slope") or {}
    lacking = slope.get("mean") is not None and None in (slope.get("ci95") or []) and slope.get("n_patients") != 1
    apart = "The calibration slope has no interval: in too many resamples the classes are apart." if lacking else ""
    notes = (few_patients(entries.get("accuracy") or {}), apart)
    return Section("View classification", [["Measure", "Value"], *rows], " ".join(filter(None, notes)))


def how_many_trainings(entry: Mapping[str, Any] | None) -> str:
    """What the intervals know of; empty where the file does not say."""
    if not entry:
        return ""
    count = len(entry["folders"])
    if count == 1:
        return "One training: the intervals know patients alone, not how another training would differ."
    if entry["generator_seeds"] == entry["segmenter_seeds"] == count:  # or their folders' names do not tell of seeds
        seeds = "each independent of the others"
    else:
        seeds = f"{entry['generator_seeds']} generator and {entry['segmenter_seeds']} segmenter seeds"
    return f"Mean of {count} trainings ({seeds}); the intervals know patients and trainings."


def _failures(entries: Mapping[str, Any]) -> Section:
    rows = [["Structure", "Islands", "Hausdorff above 10 mm", "Empty", "Predictions"]]
    for key, entry in entries.items():
        total = entry["n_predictions"]
        shares = [_share(entry[name], total) for name in ("islands", "hd_above_10mm", "empty")]
        rows.append([STRUCTURES.get(key, key), *shares, str(total)])
    return Section("Predictions that went wrong", rows, "Islands: more than one connected part.")


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})" if total else str(count)


def _segmentation(entries: Mapping[str, Any], trainings: str) -> Section:
    rows = [["Structure", *(metric.heading for metric in METRICS.values()), "Empty"]]
    for key, entry in entries.items():
        cells = [cell(entry.get(name), metric.digits) for name, metric in METRICS.items()]
        rows.append([STRUCTURES.get(key, key), *cells, _count(entry.get("empty_predictions"))])
    first = next(iter(entries.values())).get("dice") or {}
    counts = f"{_count(first.get('n_images'))} images of {_count(first.get('n_patients'))} patients"
    note = "An empty prediction has Dice 0 and the image's diagonal as its distances."
    lacking = lacking_note((STRUCTURES.get(key, key), entry.get("dice")) for key, entry in entries.items())
    scores = [(STRUCTURES.get(k, k), entry.get(name)) for k, entry in entries.items() for name in METRICS]
    notes = (note, few_patients(first), trainings, lacking, few_trainings(scores))
    return Section(f"Segmentation, {counts}", rows, " ".join(filter(None, notes)))


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _paired(metrics: Mapping[str, Any]) -> Iterator[Section]:
    for name, structures in (metrics.get("paired_baselines") or {}).items():
        rows = [["Structure", *(f"Δ {metric.heading}" for metric in METRICS.values()), f"Share of {name}'s Dice"]]
        for key, entry in structures.items():
            cells = [tested(entry.get(metric), METRICS[metric].digits) for metric in METRICS]
            rows.append([STRUCTURES.get(key, key), *cells, _share_of_dice(entry.get("dice") or {})])
        yield Section(f"Difference to {name}", rows, difference_note(structures, metrics.get("holm_families")))


def _share_of_dice(difference: Mapping[str, Any]) -> str:
    mean, ci95 = difference.get("share"), difference.get("share_ci95")
    return cell({"mean": mean, "ci95": ci95}, 3) if mean is not None else "–"


def _groups(groups: Mapping[str, Any]) -> Section:
    found = (s for members in groups.values() for entry in members.values() for s in entry)
    names = structure_names(found) or STRUCTURES
    dices = [f"{label}, Dice" for label in names.values()]
    rows = [["Group", "Images", "Patients", *dices, f"{next(iter(names.values()))}, Hausdorff mm"]]
    rows += [
        _group(f"{group.replace('_', ' ')} {name}", entry, list(names))
        for group, members in groups.items()
        for name, entry in members.items()
    ]
    note = f"Groups of one patient have no interval; over fewer than {FEW} patients intervals are too narrow."
    *others, last = (_GROUP_NAMES.get(group, group.replace("_", " ")) for group in groups)
    return Section(f"By {' and '.join(filter(None, (', '.join(others), last)))}", rows, note)


def _group(name: str, entry: Mapping[str, Any], structures: Sequence[str]) -> list[str]:
    scores = {structure: entry.get(structure) or {} for structure in structures}
    first = scores[structures[0]]
    counted: Mapping[str, Any] = next((s["dice"] for s in scores.values() if s.get("dice")), {})
    patients = counted.get("n_patients")
    marked = f"{patients} (few)" if patients is not None and patients < FEW else _count(patients)
    dices = [cell(s.get("dice"), 3) for s in scores.values()]
    return [name, _count(counted.get("n_images")), marked, *dices, cell(first.get("hd_mm"), 2)]


SWEEP_SCORES = {
    "dice_lv_endo": ("Dice, LV endocardium", 3),
    "dice_lv_epi": ("Dice, LV epicardium", 3),
    "dice_la": ("Dice, left atrium", 3),
    "hd_mm_lv_endo": ("Hausdorff LV endocardium, mm", 2),
    "difference_dice_lv_endo": ("Δ Dice LV endocardium to the reference", 3),
    "accuracy": ("View accuracy", 3),
}


def sweep_note(table: pd.DataFrame) -> str:
    """How to read `sweep_rows`, and what the intervals know of: each row is one training."""
    repeated = "segmenter_seed" in table and table["segmenter_seed"].nunique() > 1
    note = f"{HOW_TO_READ}. Each row is one training: its intervals know patients alone, not how another training would differ."
    return f"{note} Repeats stand in rows of their own; comparisons of all repeats know both." if repeated else note


def comparison_note(table: pd.DataFrame) -> str:
    """How to read `comparison_rows`, and what each interval and p know of."""
    covers = set(table["covers"].dropna()) if "covers" in table else {PATIENTS}
    note = "cell minus the other [95 % interval], p after Holm’s correction over the pairs, each column by itself. "
    if covers <= {PATIENTS}:
        return (
            f"{note}One training a cell: intervals and p (flipping patients’ signs) know patients alone, not trainings."
        )
    several = "Intervals and p know patients and trainings where a pair has repeats (random effects)"
    return f"{note}{several}{'; of single trainings they know patients alone' if PATIENTS in covers else ''}."


def sweep_rows(table: pd.DataFrame) -> Rows:
    """The readable part of a sweep's results.csv: one row a cell, mean and patient-level interval of each score."""
    scores = {k: v for k, v in SWEEP_SCORES.items() if k in table and table[k].notna().any()}
    priced = MONEY in table and table[MONEY].notna().any()
    money = ["Price of 1000 images"] if priced else []
    rows = [["Cell", "Images", "Seconds an image", *money, *(label for label, _ in scores.values()), "Stages"]]
    for _, row in table.iterrows():
        images = f"{row['count']:.0f}" if pd.notna(row.get("count")) else "–"
        seconds = f"{row['seconds_per_image']:.2g}" if pd.notna(row.get("seconds_per_image")) else "–"
        price = [f"{row[MONEY]:.2g}" if pd.notna(row[MONEY]) else "–"] if priced else []
        cells = [_interval(row, key, digits) for key, (_, digits) in scores.items()]
        rows.append([str(row["cell"]), images, seconds, *price, *cells, str(row["state"])])
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
        lacking = (entry or {}).get("trainings_without_value")
        return "–, as a training has no score in any image" if pd.notna(lacking) and lacking else "–"
    text, low, high = (f"{entry[k]:+.{digits}f}" for k in ("difference", "low", "high"))
    if pd.notna(entry["low"]) and pd.notna(entry["high"]):
        text += f" [{low}, {high}]"
    text += f", p {'–' if pd.isna(entry['p_holm']) else p_text(entry['p_holm'])}"
    rests_on = of_all({str(key): value for key, value in entry.items()})
    return f"{text} ({rests_on})" if rests_on else text


def _interval(row: pd.Series[Any], key: str, digits: int) -> str:
    if pd.isna(row[key]):
        return "–"
    text, ends = f"{row[key]:.{digits}f}", (row[f"{key}_low"], row[f"{key}_high"])
    return text if any(pd.isna(end) for end in ends) else f"{text} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def markdown(rows: Rows) -> str:
    """Rows, the first of them the header, as a Markdown table, whatever characters names hold."""
    lines = ["| " + " | ".join(_in_a_cell(text) for text in r) + " |" for r in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _in_a_cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").splitlines())


def summary(metrics: Mapping[str, Any]) -> str:
    """summary.md."""
    parts = ["# Evaluation\n", f"{HOW_TO_READ}\n"]
    for section in sections(metrics):
        parts += [f"## {section.title}\n", markdown(section.rows), *([section.note + "\n"] if section.note else [])]
    return "\n".join(parts)
