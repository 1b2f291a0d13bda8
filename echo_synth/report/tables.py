"""metrics.json as text: the terminal's table and summary.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STRUCTURES = {"lv_endo": "LV endocardium", "lv_epi": "LV epicardium", "la": "Left atrium"}
METRICS = {
    "dice": "Dice",
    "hd_mm": "Hausdorff, mm",
    "hd95_mm": "HD95, mm",
    "assd_mm": "ASSD, mm",
    "hd_px": "Hausdorff, px",
}
_DIGITS = {"dice": 3, "accuracy": 3, "auroc": 3, "f1": 3, "brier": 3}


def cell(entry: Mapping[str, Any], digits: int) -> str:
    """'0.912 ± 0.004 [0.900, 0.923]': mean, bootstrap standard deviation, patient-level 95 % interval."""
    if entry.get("mean") is None:
        return "–"
    text = f"{entry['mean']:.{digits}f}"
    if entry.get("std") is not None:
        text += f" ± {entry['std']:.{digits}f}"
    interval = entry.get("ci95")
    if interval and None not in interval:
        text += f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
    return text


def segmentation_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row a structure."""
    rows = [["Structure", *METRICS.values(), "Empty"]]
    for key, entry in metrics.get("segmentation", {}).items():
        cells = [cell(entry[m], _DIGITS.get(m, 2)) for m in METRICS]
        rows.append([STRUCTURES.get(key, key), *cells, str(entry["empty_predictions"])])
    return rows


def classification_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row a measure."""
    rows = [["Measure", "Value"]]
    for key, entry in metrics.get("classification", {}).items():
        rows.append([key, cell(entry, _DIGITS.get(key, 3))])
    return rows


def paired_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row a structure: difference to the baseline."""
    rows = [["Structure", *(f"Δ {m}" for m in METRICS.values())]]
    for key, entry in metrics.get("paired", {}).items():
        rows.append([STRUCTURES.get(key, key), *(cell(entry[m], _DIGITS.get(m, 2)) for m in METRICS)])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """Rows, the first of them the header, as a Markdown table."""
    lines = ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def summary(metrics: Mapping[str, Any]) -> str:
    """summary.md."""
    parts = ["# Evaluation\n", "mean ± standard deviation over bootstrap repeats [patient-level 95 % interval]\n"]
    if metrics.get("segmentation"):
        first = next(iter(metrics["segmentation"].values()))["dice"]
        parts.append(f"## Segmentation ({first['n_images']} images of {first['n_patients']} patients)\n")
        parts.append(markdown(segmentation_rows(metrics)))
        parts.append("An empty prediction has Dice 0 and the image's diagonal as its distances.\n")
    if metrics.get("classification"):
        parts += ["## View classification\n", markdown(classification_rows(metrics))]
    if metrics.get("paired"):
        parts += ["## Difference to the baseline\n", markdown(paired_rows(metrics))]
    return "\n".join(parts)
