"""Whether looking real means teaching well: correlations of a sweep with their intervals, and the datasets behind them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from echo_synth.evaluation.looks import LOOKS, OUTCOMES
from echo_synth.report.figures import as_label
from echo_synth.report.looks_tables import judged_datasets, turned
from echo_synth.report.palette import GREY
from echo_synth.report.sweep_figures import colours
from echo_synth.report.sweep_rows import all_real

_COLUMNS = 2  # of scatter plots: three are too small on a phone
_MARKERS = {"bmode": "s", "noise": "X", "imported": "D"}  # of what has no colour of its own
_NAMES = {"bmode": "simulated physics", "noise": "noise", "imported": "imported"}


def looks(results: pd.DataFrame, correlations: pd.DataFrame) -> Figure | None:
    """Correlations by measure of looks and outcome, and below them the first outcome against each measure.

    Args:
        results: results.csv.
        correlations: correlations.csv; without a row nothing is drawn.
    """
    if correlations.empty:
        return None
    measures = [name for name in LOOKS if (correlations["measure"] == name).any()]
    judged = judged_datasets(results)
    outcome = next((n for n in OUTCOMES if n in judged and (correlations["outcome"] == n).any()), None)
    rows = -(-len(measures) // _COLUMNS) if outcome is not None else 0
    heights = [0.9 + 0.5 * len(measures), 2.5 * rows]  # inches
    figure = plt.figure(figsize=(6.4, sum(heights)), layout="constrained")
    if outcome is None:
        _forest(figure.subplots(), turned(correlations), measures)
        return figure
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    _forest(upper.subplots(), turned(correlations), measures)
    axes = list(lower.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flat)
    for axis, measure in zip(axes, measures, strict=False):
        _scatter(axis, results, judged, measure, outcome)
    for axis in axes[len(measures) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    lower.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _forest(axis: Axes, table: pd.DataFrame, measures: list[str]) -> None:
    """A group of points a measure, a colour an outcome: none of those that rows of the grid have."""
    known = table.dropna(subset=["rho"])
    outcomes = [name for name in OUTCOMES if (known["outcome"] == name).any()]
    for k, outcome in enumerate(outcomes):
        rows = known[known["outcome"] == outcome]
        places = [measures.index(m) + 0.14 * (k - (len(outcomes) - 1) / 2) for m in rows["measure"]]
        middle = rows["rho"].to_numpy(float)
        low, high = (rows[end].fillna(rows["rho"]).to_numpy(float) for end in ("low", "high"))
        reach = np.stack([middle - low, high - middle]).clip(0)  # the middle may lie outside its own percentiles
        label = OUTCOMES[outcome].label
        axis.errorbar(
            middle, places, xerr=reach, fmt="o", color=plt.get_cmap("Dark2")(k), markersize=4, linewidth=1, label=label
        )
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set(xlim=(-1.08, 1.08), ylim=(len(measures) - 0.4, -0.6))
    axis.set_yticks(range(len(measures)), [LOOKS[m].label for m in measures], fontsize=8)
    cells = sorted({int(n) for n in table["cells"]})
    count = f"{cells[0]}" if len(cells) == 1 else f"{cells[0]} to {cells[-1]}"
    axis.set_xlabel(f"rank correlation over {count} datasets\nright: what looks more real teaches better", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if outcomes:
        axis.legend(frameon=False, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.3, 1.0))


def _scatter(axis: Axes, results: pd.DataFrame, judged: pd.DataFrame, measure: str, outcome: str) -> None:
    """A point a dataset of `judged`; real images, where they are known, are a level line."""
    look = LOOKS[measure]
    groups = judged["row"].fillna(judged["kind"]) if "row" in judged else judged["kind"]
    for name, rows in judged.groupby(groups, sort=False):
        kind = str(rows["kind"].iloc[0])
        colour = colours(results).get(str(name), GREY)
        label, marker = as_label(_NAMES.get(kind, str(name))), _MARKERS.get(kind, "o")
        axis.scatter(rows[look.column], rows[outcome], s=22, color=colour, marker=marker, label=label)
    real = all_real(results)
    level = real[outcome].mean() if outcome in real else np.nan
    if np.isfinite(level):
        axis.axhline(level, color=GREY, linestyle="--", linewidth=1, label="real")
    if look.ratio:
        axis.axvline(1, color=GREY, linestyle=":", linewidth=1)
    towards = "real is 1" if look.ratio else "more real →" if look.real_is == "high" else "← more real"
    axis.set_xlabel(f"{look.label}\n{towards}", fontsize=8)
    axis.set_ylabel(OUTCOMES[outcome].label if axis.get_subplotspec().is_first_col() else "", fontsize=8)  # type: ignore[union-attr]
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(4))  # numbers of many digits need the room
    axis.ticklabel_format(axis="x", scilimits=(-2, 4))
    axis.xaxis.get_offset_text().set_fontsize(7)
    axis.spines[["top", "right"]].set_visible(False)
