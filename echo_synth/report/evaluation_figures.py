"""Plots of an evaluation: scores, volumes, views, worst cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from echo_synth.data.tissue_colours import tissue_colour
from echo_synth.metrics import classification as views
from echo_synth.report.cells import structure_names
from echo_synth.report.figures import as_label, png
from echo_synth.report.palette import BLUE, GREY, ORANGE
from echo_synth.report.volume_tables import VOLUMES
from echo_synth.types import VIEWS

__all__ = ["Overlay", "bland_altman", "classification", "png", "score_boxes", "worst_cases"]


# Structures as unions of labels, each in the colour of its tissue and with its name: the wall's inner edge is the cavity's own.
Outlines = tuple[tuple[tuple[int, ...], int, str], ...]
HEART_OUTLINES: Outlines = (((1, 2), 2, "LV epicardium"), ((3,), 3, "left atrium"), ((1,), 1, "LV endocardium"))
PANEL = 3.2  # inches: one panel fills a phone


@dataclass(frozen=True)
class Overlay:
    """One case: title, image (H, W), predicted and reference labels (H, W), height of a pixel over its width; labels that have an outline together, with its tissue and name."""

    title: str
    image: NDArray[Any]
    prediction: NDArray[Any]
    reference: NDArray[Any]
    aspect: float = 1.0
    outlines: Outlines = HEART_OUTLINES


def score_boxes(per_case: pd.DataFrame, baseline: tuple[str, pd.DataFrame] | None = None) -> Figure:
    """Dice and Hausdorff distance of every case, a box a structure; with a baseline, its boxes beside and lines from case to case."""
    # One below the other: side by side they are too small on a phone.
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 7.2))
    names = structure_names(per_case["structure"].unique())
    sets = [("predictions", per_case, BLUE)] + ([(*baseline, ORANGE)] if baseline else [])
    for axis, (metric, label) in zip(axes, (("dice", "Dice"), ("hd_mm", "Hausdorff distance, mm")), strict=True):
        for i, structure in enumerate(names):
            values = [table[table["structure"] == structure].set_index("case")[metric] for _, table, _ in sets]
            _boxes(axis, i, values, [colour for *_, colour in sets])
        axis.set_xticks(range(len(names)), list(names.values()), fontsize=9)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    if baseline:
        handles = [plt.Line2D([], [], color=c, marker=".", linestyle="") for *_, c in sets]
        axes[0].legend(handles, [as_label(name) for name, *_ in sets], frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def _boxes(axis: Axes, position: int, values: Sequence[pd.Series], colours: Sequence[str]) -> None:
    """Boxes side by side at `position`, each with its points; lines join the points of one case."""
    offsets = [0.0] if len(values) == 1 else [-0.2, 0.2]
    order = values[0].index
    jitter = np.random.default_rng(0).uniform(-0.08, 0.08, len(order))
    places = [position + o + jitter for o in offsets]
    for offset, place, scores, colour in zip(offsets, places, values, colours, strict=True):
        place_of_box = [position + offset]
        axis.boxplot(
            [scores.dropna()], positions=place_of_box, showfliers=False, widths=0.3, medianprops={"color": "black"}
        )
        axis.plot(place, scores.reindex(order), ".", color=colour, alpha=0.35, markersize=3)
    if len(values) > 1:
        axis.plot(places, [v.reindex(order) for v in values], color=GREY, alpha=0.12, linewidth=0.5)


def bland_altman(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Figure:
    """Difference against mean of prediction and reference for each measure, CAMUS's convention, a point a patient."""
    rows = table[table["convention"] == "camus"]
    figure, axes = plt.subplots(len(VOLUMES), 1, figsize=(6.4, 3.2 * len(VOLUMES)))
    for axis, (measure, label) in zip(axes, VOLUMES.items(), strict=True):
        a, b = rows[measure], rows[f"{measure}_reference"]
        axis.plot((a + b) / 2, a - b, ".", color=BLUE, alpha=0.6)
        entry = metrics[measure]
        for value, style in ((entry["bias"], "-"), *((limit, "--") for limit in entry["loa"])):
            if value is not None:
                axis.axhline(value, color=ORANGE, linestyle=style, linewidth=1)
        axis.axhline(0, color=GREY, linewidth=0.5)
        axis.set(xlabel=f"mean of both, {label}", ylabel="predicted − reference")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def classification(
    truth: NDArray[np.int64], probability: NDArray[np.float64], names: tuple[str, str] = VIEWS
) -> Figure:
    """Confusion matrix and reliability curve of the view classifier; `truth` is 1 for the second of the views' `names`, both (N,)."""
    figure, (left, right) = plt.subplots(2, 1, figsize=(4.6, 7.6))  # one below the other, as `score_boxes`
    counts = views.confusion(truth, probability)
    left.imshow(counts, cmap="Blues", vmin=0)
    for (i, j), n in np.ndenumerate(counts):
        left.text(j, i, str(n), ha="center", va="center", color="white" if n > counts.max() / 2 else "black")
    left.set(xticks=[0, 1], yticks=[0, 1], xticklabels=names, yticklabels=names)
    left.set(xlabel="predicted view", ylabel="true view")
    claimed, observed, sizes = views.calibration(truth, probability)
    right.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    right.scatter(claimed, observed, s=10 + 150 * sizes / max(1, sizes.sum()), color=BLUE)
    right.set(
        xlabel=f"claimed probability of {names[1]}", ylabel="observed share", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03)
    )
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def worst_cases(overlays: Sequence[Overlay], columns: int = 2) -> Figure:
    """Images with the outlines of each label: predicted in the tissue's colour, the reference's dashed white.

    Every panel has a share of the figure of the same size, so that a page can put them below each other.
    """
    rows = max(1, -(-len(overlays) // columns))
    figure = plt.figure(figsize=(PANEL * columns, PANEL * rows))
    for position, overlay in enumerate(overlays):
        row, column = divmod(position, columns)
        place = ((column + 0.02) / columns, 1 - (row + 0.98) / rows, 0.96 / columns, 0.88 / rows)
        axis = figure.add_axes(place, xticks=[], yticks=[], frame_on=False)
        _overlay(axis, overlay)
    return figure


def _overlay(axis: Axes, overlay: Overlay) -> None:
    axis.imshow(overlay.image, cmap="gray", aspect=overlay.aspect)
    for labels, tissue, _ in overlay.outlines:
        _outline(axis, np.isin(overlay.prediction, labels), tissue_colour(tissue), "-", 1.2)
    for labels, _, _ in overlay.outlines:
        _outline(axis, np.isin(overlay.reference, labels), "white", "--", 0.6)
    axis.set_title(as_label(overlay.title), fontsize=9)
    lines = [
        plt.Line2D([], [], color=tissue_colour(tissue), label=as_label(name)) for _, tissue, name in overlay.outlines
    ]
    lines.append(plt.Line2D([], [], color="white", linestyle="--", linewidth=0.8, label="reference"))
    axis.legend(handles=lines, fontsize=6, loc="lower left", facecolor="black", edgecolor="none", labelcolor="white")


def _outline(axis: Axes, mask: NDArray[np.bool_], colour: str, style: str, width: float) -> None:
    if mask.any():
        axis.contour(mask, [0.5], colors=[colour], linestyles=style, linewidths=width)
