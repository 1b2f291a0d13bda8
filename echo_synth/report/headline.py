"""The summary on top of a page: what was trained on what, and what came of it, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from echo_synth.report.cells import STRUCTURES, cell, p_text
from echo_synth.report.sweep_rows import all_real, grid

Line = tuple[str, str]  # what it is about, the sentence


@dataclass(frozen=True)
class Headline:
    """What matters of one section: its title and a few sentences."""

    title: str
    lines: tuple[Line, ...]


def of_evaluation(title: str, metrics: Mapping[str, Any]) -> Headline | None:
    """Of a metrics.json; None where nothing was judged."""
    lines = [*_dice(metrics), *_ejection_fraction(metrics), *_accuracy(metrics)]
    if not lines:
        return None
    verdicts = list(_against(metrics)) if metrics.get("segmentation") else []
    return Headline(title, (*_trained(metrics), *lines, *verdicts))


def _trained(metrics: Mapping[str, Any]) -> Iterator[Line]:
    trained_on = (metrics.get("settings") or {}).get("trained_on")
    ours = trained_on.get("predictions") if isinstance(trained_on, dict) else None
    if ours:
        count = len((metrics.get("trainings") or {}).get("folders") or [""])
        yield "Trained", f"{'A segmenter was' if count == 1 else f'{count} segmenters were'} trained on {ours}."


def _dice(metrics: Mapping[str, Any]) -> Iterator[Line]:
    entries = metrics.get("segmentation") or {}
    scores = {_in_a_sentence(k): e["dice"] for k, e in entries.items() if (e.get("dice") or {}).get("mean") is not None}
    if scores:
        first = next(iter(scores.values()))
        told = ", ".join(f"{name} {cell(entry, 3)}" for name, entry in scores.items())
        where = f"on {first.get('n_images', '–')} held-out images of {first.get('n_patients', '–')} patients"
        yield "Dice", f"{told[0].upper()}{told[1:]}, {where}; 1 is perfect."


def _ejection_fraction(metrics: Mapping[str, Any]) -> Iterator[Line]:
    entry = (metrics.get("volumes") or {}).get("ef_percent") or {}
    mae, bias = entry.get("mae"), entry.get("bias")
    if lacking := entry.get("trainings_without_value"):
        yield "Ejection fraction", f"No estimate: {lacking} of the trainings found no cavity in any patient."
    if mae is not None and bias is not None:
        way = "too high" if bias > 0 else "too low"
        yield (
            "Ejection fraction",
            f"It is off by {mae:.1f} points on average, and {abs(bias):.1f} points {way}, over {entry['n']} patients.",
        )


def _accuracy(metrics: Mapping[str, Any]) -> Iterator[Line]:
    entry = (metrics.get("classification") or {}).get("accuracy") or {}
    if entry.get("mean") is not None:
        yield "View accuracy", f"The view of a share of {cell(entry, 3)} of the held-out images is recognised."


def _against(metrics: Mapping[str, Any]) -> Iterator[Line]:
    """The verdict beside each baseline, by the first structure's Dice."""
    baselines = metrics.get("paired_baselines") or {}
    if not baselines:
        yield (
            "Against real",
            "Not compared: 'echosynth bootstrap-eval --baseline' names what a segmenter trained on real images predicted.",
        )
    trained_on = (metrics.get("settings") or {}).get("trained_on")
    theirs = trained_on.get("baselines") if isinstance(trained_on, dict) else None
    for name, structures in baselines.items():
        key, entry = next(iter(structures.items()), ("", None))
        dice = (entry or {}).get("dice") or {}
        if dice.get("mean") is None:
            continue
        source = theirs.get(name) if isinstance(theirs, dict) else None
        label = f"Against {name}{f' ({source})' if source else ''}"
        yield label, f"{_difference(_in_a_sentence(key), dice)}: {_VERDICTS.get(dice.get('verdict'), _UNTOLD)}."


def _in_a_sentence(structure: str) -> str:
    name = STRUCTURES.get(structure, structure)
    return name[0].lower() + name[1:] if name[1:2].islower() else name


def _difference(structure: str, dice: Mapping[str, Any]) -> str:
    way = "higher" if dice["mean"] > 0 else "lower"
    text = f"The Dice of the {structure} is {abs(dice['mean']):.3f} {way}"
    if dice.get("p_holm") is not None:
        text += f" (p {p_text(dice['p_holm'])})"
    return text + (f", {dice['share']:.1%} of its Dice" if dice.get("share") is not None else "")


_UNTOLD = "no verdict"
_VERDICTS: Mapping[Any, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent, within the stated margin",
    "better, equivalent": "better, yet equivalent within the stated margin",
    "worse, equivalent": "worse, yet equivalent within the stated margin",
    "worse, non-inferior": "worse, yet by no more than the stated margin",
    "non-inferior": "not worse by more than the stated margin",
    "open": "open: these patients do not decide it",
    "patients alone": "one training each, so nothing is said of how another training would differ",
}


def of_sweep(title: str, table: pd.DataFrame) -> Headline | None:
    """Of a results.csv; None where no cell of drawn images has a Dice."""
    done = f"{int((table['state'] == 'done').sum())} of {len(table)} are done."
    if not {"kind", "dice_lv_endo"} <= set(table.columns) or not grid(table)["dice_lv_endo"].notna().any():
        return None
    best = grid(table).sort_values("dice_lv_endo", ascending=False).iloc[0]
    lines = [
        ("Cells", done),
        ("Best drawn", f"{best['cell']} reaches a Dice of {best['dice_lv_endo']:.3f} of the LV endocardium."),
    ]
    real = all_real(table)["dice_lv_endo"].dropna()
    if len(real):
        share = best["dice_lv_endo"] / real.mean()
        lines.append(
            ("Against real", f"Real images reach {real.mean():.3f}; the best drawn ones reach {share:.1%} of that.")
        )
    return Headline(title, tuple(lines))


def of_quality(title: str, result: Mapping[str, Any]) -> Headline:
    """Of a quality.json."""
    copies = result["privacy"]["synthetic"]
    lines = [("Near copies", f"{copies['flagged']} of {copies['images']} drawn images are near a training image.")]
    if result.get("agreement"):
        dice = cell(result["agreement"]["agreement"], 3)
        lines.append(("Agreement", f"A segmenter reads the map in the drawn images with a Dice of {dice}."))
    return Headline(title, tuple(lines))
