"""The paper's figures from a sweep's results, and the front of quality against cost that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from echo_synth.data.tissue_colours import tissue_image
from echo_synth.report.figures import as_label, evaluations_axis, throughput_curves
from echo_synth.report.palette import GREY
from echo_synth.report.sweep_rows import MONEY, all_bmode, all_noise, all_real, grid

SCORES = {
    "dice_lv_endo": "Dice, LV endocardium",
    "hd_mm_lv_endo": "Hausdorff distance, mm",
    "accuracy": "View accuracy",
}
_SDM_NFE = 1000
_CLOSE = 12  # times the least of an axis: as far as numbers between powers of ten find room
_IN_A_LINE = 4  # images that are not in a grid
_INSIDE = 6  # entries of a legend that find room in a plot
_COSTED = {
    "dice_lv_endo": ("Dice, LV endocardium", 1),
    "ef_mae": ("mean absolute error of EF, points", -1),
}  # and which way is better


def colours(table: pd.DataFrame) -> dict[str, str]:
    """A colour for each row of the grid, the same in all figures, whatever of it is done or drawn; from the eleventh on lighter ones."""
    rows, pairs = grid(table)["row"].unique(), colormaps["tab20"]  # of which the ten usual ones are every other
    return {str(row): to_hex(pairs(2 * (i % 10) + i // 10 % 2)) for i, row in enumerate(rows)}


def label_of(row: str, rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """Name of a row of the grid, with its number of images where the table has several."""
    several = grid(table)["count"].nunique() > 1
    return as_label(f"{row}, {rows['count'].iloc[0]:.0f} images" if several else row)


def scores(table: pd.DataFrame) -> Figure | None:
    """Each score against NFE, a line a row of the grid with its patient-level interval (the paper's figure 3).

    Cells without an NFE (all real data, simulated physics, noise) are level lines with their interval, and so is SDM at 1000 NFE.
    Where there are several seeds, of images or of trainings, means and bounds are averaged over them.
    """
    shown = {k: label for k, label in SCORES.items() if k in table and grid(table)[k].notna().any()}
    if not shown:
        return None
    # One below the other: side by side they are too small on a phone.
    figure, axes = plt.subplots(len(shown), 1, figsize=(6.4, 3.6 * len(shown)), squeeze=False, layout="constrained")
    for axis, (key, label) in zip(axes[:, 0], shown.items(), strict=True):
        _against_nfe(axis, table, key)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    _legend(axes[0, 0])
    return figure


def _legend(axis: Axes) -> None:
    """In the plot where it is short, else below it, where it hides nothing."""
    entries = len(axis.get_legend_handles_labels()[0])
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3} if entries > _INSIDE else {}
    axis.legend(frameon=False, fontsize=8, **below)


def _against_nfe(axis: Axes, table: pd.DataFrame, key: str) -> None:
    cells = grid(table).dropna(subset=[key])
    whole = (cells["model"] == "sdm") & (cells["nfe"] == _SDM_NFE)
    evaluations_axis(axis, cells.loc[~whole, "nfe"])
    for name, rows in cells[~whole].groupby("row", sort=False):
        middle = rows.groupby("nfe")[[key, f"{key}_low", f"{key}_high"]].mean()
        colour, label = colours(table)[str(name)], label_of(str(name), rows, table)
        axis.plot(middle.index, middle[key], color=colour, marker="o", markersize=4, label=label)
        axis.fill_between(middle.index, middle[f"{key}_low"], middle[f"{key}_high"], color=colour, alpha=0.15)
    _level(axis, cells[whole], key, f"sdm at {_SDM_NFE}", "black", "-.")
    real, noise = (rows.dropna(subset=[key]) for rows in (all_real(table), all_noise(table)))
    _level(axis, real, key, "real", GREY, "--")
    _level(axis, all_bmode(table).dropna(subset=[key]), key, "simulated physics", GREY, "-")
    low, high = axis.get_ylim()
    floor = noise[key].mean()
    far = max(low - floor, floor - high) > high - low  # where a line for it would flatten everything else
    _level(axis, noise, key, f"noise, {floor:.3g}" if far else "noise", GREY, ":")
    if far:
        axis.set_ylim(low, high)


def _level(axis: Axes, rows: pd.DataFrame, key: str, label: str, colour: str, style: str) -> None:
    if len(rows):
        axis.axhline(rows[key].mean(), color=colour, linestyle=style, linewidth=1, label=label)
        axis.axhspan(rows[f"{key}_low"].mean(), rows[f"{key}_high"].mean(), color=colour, alpha=0.08, linewidth=0)


def throughput(table: pd.DataFrame) -> Figure | None:
    """Images/s against NFE as measured in the sweep (the paper's figure 4); relative to SDM at 1000 NFE where that was run."""
    rows = grid(table)
    if "seconds_per_image" not in rows or not rows["seconds_per_image"].notna().any():
        return None
    taken = rows.groupby(["row", "model", "nfe"], sort=False)["seconds_per_image"].mean().dropna().reset_index()
    sdm = taken.loc[(taken["model"] == "sdm") & (taken["nfe"] == _SDM_NFE), "seconds_per_image"]
    measured = taken.assign(model=taken["row"], images_per_second=1 / taken["seconds_per_image"]).sort_values("nfe")
    return throughput_curves(measured, 1 / float(sdm.iloc[0]) if len(sdm) else None, colours(table))


def pareto(seconds: NDArray[np.float64], quality: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other beats: none is at most as slow and at least as good, and better in one of the two. (N,) each."""
    slower, worse = seconds[:, None] >= seconds, quality[:, None] <= quality
    strictly = (seconds[:, None] > seconds) | (quality[:, None] < quality)
    return ~np.asarray((slower & worse & strictly).any(1), dtype=bool)


def cost_front(table: pd.DataFrame) -> Figure | None:
    """Dice of the LV endocardium, and below it the error of EF, against seconds an image; the front is what no other point beats in both.

    Where rows have different numbers of images the cost is that of the dataset. Seeds are averaged. Where the table tells
    money, a second axis shows it.
    """
    shown = {key: points for key in _COSTED if (points := _costs(table, key)) is not None}
    if not shown:
        return None
    figure, axes = plt.subplots(len(shown), 1, figsize=(6.4, 4.2 * len(shown)), squeeze=False, layout="constrained")
    for axis, (key, points) in zip(axes[:, 0], shown.items(), strict=True):
        _front(axis, table, key, points)
    _legend(axes[0, 0])
    return figure


def _front(axis: Axes, table: pd.DataFrame, key: str, points: pd.DataFrame) -> None:
    """One score against cost: its points by row of the grid, and what joins the best."""
    label, sign = _COSTED[key]
    for name, own in points.groupby("row", sort=False):
        _cost_points(axis, key, own, colours(table)[str(name)], label_of(str(name), own, table))
    best = pareto(points["cost"].to_numpy(float), sign * points[key].to_numpy(float))
    front = points[best].sort_values("cost")
    axis.plot(front["cost"], front[key], color=GREY, linewidth=1, zorder=0, label="front")
    several = _several_sizes(points)
    unit = "a dataset" if several else "an image"
    axis.set(xscale="log", xlabel=f"seconds {unit} (NFE beside each point)", ylabel=label)
    axis.spines[["top", "right"]].set_visible(False)
    low, high = axis.get_xlim()
    close = high < _CLOSE * low
    _plain_numbers(axis.xaxis, close)
    price = _price_of_a_second(table) * (1 if several else 1000)
    if price:
        money = axis.secondary_xaxis("top", functions=(partial(np.multiply, price), partial(np.multiply, 1 / price)))
        money.set_xlabel(f"price of {'a dataset' if several else '1000 images'}")
        _plain_numbers(money.xaxis, close)


def _plain_numbers(axis: Axis, close: bool) -> None:
    """Numbers at powers of ten, and between them where few of these are in sight."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}" if close else NullFormatter())
    axis.set_tick_params(which="both", labelsize=8)


def _price_of_a_second(table: pd.DataFrame) -> float:
    """Of what draws, in the currency of --price; 0 where none was named."""
    if MONEY not in table:
        return 0.0
    known = table[(table["seconds_per_image"] > 0) & table[MONEY].notna()]
    return float((known[MONEY] / known["seconds_per_image"]).median()) / 1000 if len(known) else 0.0


def _several_sizes(points: pd.DataFrame) -> bool:
    return bool(points["count"].nunique() > 1)


def _costs(table: pd.DataFrame, key: str) -> pd.DataFrame | None:
    """A row for each row of the grid and NFE, seeds averaged, with its `cost` in seconds; None where nothing is known."""
    rows = grid(table)
    if not {"seconds_per_image", key} <= set(rows.columns):
        return None
    needed = ["seconds_per_image", "count", key]
    ends = [end for end in (f"{key}_low", f"{key}_high") if end in rows]
    points = rows.dropna(subset=needed).groupby(["row", "nfe"], sort=False)[[*needed, *ends]].mean().reset_index()
    if points.empty:
        return None
    images = points["count"] if _several_sizes(points) else 1
    return points.assign(cost=points["seconds_per_image"] * images)


def _cost_points(axis: Axes, key: str, points: pd.DataFrame, colour: str, label: str) -> None:
    """Points of one row of the grid with their intervals, each named by its NFE."""
    middle = points[key]
    # A mean may leave its own interval by a rounding step where patients are very few; of one patient there is none.
    low, high = (points.get(f"{key}_{end}", middle).fillna(middle) for end in ("low", "high"))
    reach = [(middle - low).clip(0), (high - middle).clip(0)]
    axis.errorbar(points["cost"], middle, reach, color=colour, fmt="o", markersize=4, linewidth=0.8, label=label)
    for x, y, nfe in zip(points["cost"], middle, points["nfe"], strict=True):
        axis.annotate(f"{nfe:.0f}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)


def _places(drawn: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Line and column of each image; line 0, column 0 is the map's."""
    names, budgets = list(dict.fromkeys(name for name, _ in drawn)), sorted({nfe for _, nfe in drawn})
    if 2 * len(drawn) >= len(names) * len(budgets):
        return {(name, nfe): (names.index(name), 1 + budgets.index(nfe)) for name, nfe in drawn}
    return {key: divmod(1 + i, _IN_A_LINE) for i, key in enumerate(drawn)}


def image_grid(
    images: Mapping[tuple[str, int], NDArray[np.uint8]], reference: NDArray[np.uint8] | None
) -> Figure | None:
    """One image a row of the grid and NFE, all of the same map (the paper's figure 2).

    A line a row of the grid and a column an NFE, or, where that would be mostly empty, one after the other.

    Args:
        images: (row, NFE) to its image (H, W) uint8.
        reference: the map that all were drawn from, (H, W) of tissue ids, or None.
    """
    if not images:
        return None
    places = _places(list(images))
    rows, columns = (1 + max(place[i] for place in places.values()) for i in (0, 1))
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    if reference is not None:
        axes[0, 0].imshow(tissue_image(reference), interpolation="nearest")
        axes[0, 0].set_title("label map", fontsize=9)
    for (name, nfe), image in images.items():
        axis = axes[places[name, nfe]]
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(as_label(f"drawn: {name}, {nfe} NFE"), fontsize=9)
    figure.tight_layout(pad=0.4, h_pad=1.5)
    return figure
