"""Plots of a synthetic dataset's quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from echo_synth.report.cells import structure_names
from echo_synth.report.figures import as_label, png
from echo_synth.report.palette import BLUE, GREY, ORANGE

__all__ = ["nearest_pairs", "overview", "png"]


def overview(table: pd.DataFrame, histograms: Mapping[str, NDArray[np.float64]], privacy: Mapping[str, Any]) -> Figure:
    """Intensity histograms, agreement with the maps, similarity to the nearest training image."""
    figure, (first, second, third) = plt.subplots(3, 1, figsize=(6.4, 9.6))
    for (name, shares), colour in zip(histograms.items(), (BLUE, GREY), strict=True):
        first.plot(shares, color=colour, label=name)
    first.set(xlabel="grey level in the sector", ylabel="share of pixels")
    first.legend(frameon=False)
    structures = structure_names(c.removeprefix("dice_") for c in table.columns if c.startswith("dice_"))
    columns = [f"dice_{s}" for s in structures if f"dice_{s}" in table]
    if columns:
        values = [table[c].dropna() for c in columns]
        second.boxplot(values, showfliers=True, flierprops={"markersize": 2}, medianprops={"color": ORANGE})
        names = [structures[c.removeprefix("dice_")] for c in columns]
        second.set_xticks(range(1, len(columns) + 1), names, fontsize=8)
        second.set_ylabel("Dice with the guiding map")
    else:
        second.text(0.5, 0.5, "no segmenter given", ha="center", transform=second.transAxes, color=GREY)
    third.hist(table["similarity_in_pixels"], bins=40, color=BLUE, alpha=0.7)
    limit = privacy["limits"]["pixels"]
    if limit is not None:
        third.axvline(limit, color=ORANGE, linestyle="--", label=f"flags {privacy['rate']:.0%} of unseen real images")
        third.legend(frameon=False, fontsize=7)
    third.set(xlabel="similarity to the nearest training image", ylabel="images")
    for axis in (first, second, third):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def nearest_pairs(pairs: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]) -> Figure:
    """Drawn images (above) and their nearest real training images (below): title, both pictures. A panel of one size a pair."""
    columns = max(1, len(pairs))
    figure = plt.figure(figsize=(2.6 * columns, 5.8))
    for column, (title, synthetic, real) in enumerate(pairs):
        told = ((f"drawn: {title}", synthetic, 0.47), ("nearest real training image", real, 0.01))
        for words, picture, bottom in told:
            place = ((column + 0.03) / columns, bottom, 0.94 / columns, 0.42)
            axis = figure.add_axes(place, xticks=[], yticks=[])
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(as_label(words), fontsize=8)
    return figure
