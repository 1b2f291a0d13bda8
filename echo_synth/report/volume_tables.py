"""Volumes and ejection fraction of metrics.json as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echo_synth.report.cells import Section, difference_note, few_patients, few_trainings, lacking_note, tested

VOLUMES = {"edv_ml": "EDV, ml", "esv_ml": "ESV, ml", "ef_percent": "EF, %"}
_AGAINST_CFG = {
    "EF, % against the cfg": "ef_percent_against_cfg",
    "reference masks' EF against the cfg": "reference_ef_percent_against_cfg",
}
_NOT_COUNTED = {
    "patients_without_a_view": "without an image of each view and phase",
    "patients_with_several_images": "with several images of a view and phase",
    "references_without_volume": "with an empty cavity in the reference",
    "patients_without_volume": "with an empty predicted cavity",
}


def volume_sections(entries: Mapping[str, Any]) -> list[Section]:
    """The "volumes" part: agreement, and, where the file has them, classes of EF and ratios of long axes."""
    sections = [_agreements(entries)]
    if entries.get("ef_classes"):
        sections.append(_ef_classes(entries["ef_classes"]))
    return sections


def _agreements(entries: Mapping[str, Any]) -> Section:
    rows = [["Measure", "Bias", "Limits of agreement", "Mean absolute error", "r", "ICC", "Patients"]]
    rows += [_agreement(label, entries[k]) for k, label in VOLUMES.items()]
    rows += [_agreement(f"{label}, clinical", entries["clinical"][k]) for k, label in VOLUMES.items()]
    rows += [_agreement(label, entries[k]) for label, k in _AGAINST_CFG.items() if entries.get(k)]
    notes = [
        "Biplane method of discs against the reference masks, in CAMUS's convention (one disc height for both phases) "
        "unless the row says clinical (each phase its own).",
        lacking_note((label, entries[k]) for k, label in VOLUMES.items())
        or few_patients({"n_patients": entries["ef_percent"]["n"]}),
        few_trainings((label, entries[k]) for k, label in VOLUMES.items()),
        _without_volume(entries),
        _long_axes(entries.get("long_axis_ratio")),
    ]
    return Section("Volumes and ejection fraction", rows, " ".join(filter(None, notes)))


def _without_volume(entries: Mapping[str, Any]) -> str:
    """Patients that are in no row and why, so that nobody takes the rest for all."""
    told = [f"{count} {reason}" for key, reason in _NOT_COUNTED.items() if (count := entries.get(key) or 0)]
    partly = entries.get("patients_without_some_volume") or 0
    if (entries.get("ef_percent") or {}).get("trainings_without_value"):
        partly = 0  # then nobody is counted
    sentences = []
    if told and entries.get("patients") is not None:
        sentences.append(f"Not counted, of {entries['patients']} patients: {'; '.join(told)}.")
    if partly:
        sentences.append(f"Patients of whom some trainings left a cavity empty, counted by the others: {partly}.")
    return " ".join(sentences)


def _long_axes(ratio: Mapping[str, Any] | None) -> str:
    if not ratio or ratio.get("median") is None:
        return ""
    return (
        f"Long axes, predicted over reference: median {ratio['median']:.3f}, 5 to 95 % {ratio['p05']:.3f} to {ratio['p95']:.3f}; "
        f"{ratio['below_085']} of {ratio['n']} below 0.85, {ratio['above_115']} above 1.15."
    )


def _agreement(label: str, entry: Mapping[str, Any]) -> list[str]:
    low, high = entry["loa"]
    bias, mae = (_with_interval(entry[k], entry.get(f"{k}_ci95")) for k in ("bias", "mae"))
    correlations = [_number(entry.get(k), 3) for k in ("r", "icc")]
    return [label, bias, f"{_number(low)} to {_number(high)}", mae, *correlations, str(entry["n"])]


def _with_interval(value: float | None, interval: Sequence[float | None] | None) -> str:
    if value is None or not interval or None in interval:
        return _number(value)
    low, high = interval
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _ef_classes(entry: Mapping[str, Any]) -> Section:
    labels = entry["labels"]
    rows = [["Reference masks", *(f"predicted {label} %" for label in labels)]]
    rows += [[f"{label} %", *map(str, counts)] for label, counts in zip(labels, entry["table"], strict=True)]
    interval = entry.get("kappa_ci95")
    kappa = _number(entry.get("kappa"), 2)
    if interval and None not in interval:
        kappa += f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return Section("Classes of ejection fraction", rows, f"Cohen's kappa with linear weights: {kappa}.")


def paired_volume_section(name: str, measures: Mapping[str, Mapping[str, Any]]) -> Section:
    """Differences of bias and of absolute error to one baseline."""
    rows = [["Measure", "Δ bias", "Δ mean absolute error"]]
    for key, label in VOLUMES.items():
        entry = measures.get(key) or {}
        rows.append([label, tested(entry.get("bias"), 1), tested(entry.get("mae"), 1)])
    return Section(f"Difference of volumes to {name}", rows, difference_note(measures, names=VOLUMES))
