"""Plots, each a function from data to a matplotlib figure; colours are safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from echo_synth.errors import DataError
from echo_synth.files import check_writable
from echo_synth.outputs import check_file
from echo_synth.report.palette import BLUE, GREY, ORANGE
from echo_synth.report.panels import PANELS

_SOFTWARE = "EchoSynth"  # in the files' metadata


def png(figure: Figure, panels: tuple[int, int] | None = None) -> bytes:
    """`figure` as PNG, closed afterwards.

    Args:
        panels: (columns, rows) of panels of one size, which the file states, so that `panels.cut` can part them.
    """
    buffer = BytesIO()
    facts = {"Software": _SOFTWARE} | ({PANELS: f"{panels[0]}x{panels[1]}"} if panels else {})
    figure.savefig(buffer, dpi=120, bbox_inches=None if panels else "tight", metadata=facts)
    plt.close(figure)
    return buffer.getvalue()


def check_image(path: Path, overwrite: bool) -> None:
    """Raise unless an image may be written to `path`; one that EchoSynth drew gives way with `overwrite`, nothing else does.

    Raises:
        ExistsError: something is there.
        DataError: the place is not writable, or `path` does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: expected a name that ends in .png")
    check_writable(path.parent)
    check_file(path, overwrite, ours=_is_ours(path))


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return _SOFTWARE.encode() in file.read(1024)


def as_label(name: str) -> str:
    """A name from outside as text in a figure: no mathematics between dollar signs, nothing that no font has."""
    return name.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")[:200]


def history_curves(history: pd.DataFrame, title: str) -> Figure:
    """Training and validation loss against images seen."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    for split, colour in (("train", GREY), ("val", BLUE)):
        rows = history[history["split"] == split]
        if rows.empty:
            continue
        name = "loss" if split == "train" else rows["name"].iloc[0]
        rows = rows[rows["name"] == name]
        axis.plot(rows["images"], rows["value"], color=colour, label=as_label(f"{split} {name}"))
    axis.set(xlabel="images seen", ylabel="loss", title=as_label(title), yscale="log")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def prior_densities(counts: NDArray[np.int64], summary: Mapping[str, Any]) -> Figure:
    """Histogram (256,) of in-sector grey levels with the densities that `echo_synth.evaluation.latent_prior.summary` fitted."""
    from echo_synth.evaluation.latent_prior import Fit  # it brings scipy's distributions

    figure, axis = plt.subplots(figsize=(6.4, 3.8))
    x = (np.arange(256) + 0.5) / 256
    axis.fill_between(x, counts / counts.sum() * 256, step="mid", color="#d9d9d9", label="in-sector pixels")
    fits = [(f, f["name"]) for f in summary["maximum_likelihood"]]
    fits += [(summary["grid_search"], "gamma, grid search"), (summary["paper"], "gamma, paper")]
    looks = (("-", BLUE), ("--", ORANGE), (":", "#009E73"), ("-.", "#56B4E9"), ("-.", GREY))
    for (fit, label), (style, colour) in zip(fits, looks, strict=True):
        density = Fit(**fit).density(x)
        axis.plot(x, density, color=colour, linestyle=style, label=f"{label}: KS {fit['ks']:.3f}")
    axis.set(xlabel="intensity", ylabel="density", title=f"Prior of the latent, {summary['dataset']}", xlim=(0, 1))
    axis.set_ylim(0, 1.15 * float(np.sort(counts / counts.sum() * 256)[-6]))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure


def latent_histograms(
    densities: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], edges: NDArray[np.float64]
) -> Figure:
    """In-sector latents of each VAE (first of the pair) against its prior (second), over the bins `edges`."""
    figure, axes = plt.subplots(1, len(densities), figsize=(4.2 * len(densities), 3.2), squeeze=False)
    centres = (edges[1:] + edges[:-1]) / 2
    for axis, (name, (latents, prior)) in zip(axes[0], densities.items(), strict=True):
        axis.fill_between(centres, latents, step="mid", color="#d9d9d9", label="latents")
        axis.plot(centres, prior, color=BLUE, label="prior")
        shown = centres[(latents > 1e-3) | (prior > 1e-2)]
        axis.set(title=name, xlabel="z", xlim=(shown.min(), shown.max()))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("density")
    figure.tight_layout()
    return figure


def evaluations_axis(axis: Axes, nfe: Iterable[float]) -> None:
    """A logarithmic horizontal axis of NFE, with a tick where something was measured."""
    ticks = sorted({int(n) for n in nfe})
    axis.set(xscale="log", xlabel="network evaluations an image (NFE)")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [str(n) for n in ticks])


def throughput_curves(
    table: pd.DataFrame, sdm_reference: float | None, colours: Mapping[str, str] | None = None
) -> Figure:
    """Images/s against NFE for each model (columns model, nfe, images_per_second), both axes logarithmic.

    Args:
        sdm_reference: images/s of SDM at 1000 NFE; where known, a second axis counts in it (the paper's figure 4).
        colours: by model; None for matplotlib's own order.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for name, rows in table.groupby("model", sort=False):
        colour = colours[str(name)] if colours else None
        axis.plot(
            rows["nfe"], rows["images_per_second"], color=colour, marker="o", markersize=3, label=as_label(str(name))
        )
    axis.set(yscale="log", ylabel="images/s")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    evaluations_axis(axis, table["nfe"])
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    if sdm_reference:
        relative = axis.secondary_yaxis("right", functions=(lambda y: y / sdm_reference, lambda y: y * sdm_reference))
        relative.set_ylabel("times SDM at 1000 NFE")
    figure.tight_layout()
    return figure


def convergence_curves(table: pd.DataFrame, title: str) -> Figure:
    """Distance from the converged solution against NFE, one line a solver; columns of `evaluation.solver_study`."""
    figure, axis = plt.subplots(figsize=(5.6, 3.8))
    for solver, rows in table.groupby("solver", sort=False):
        axis.plot(rows["nfe"], rows["rmse"], marker="o", markersize=3, label=str(solver))
        axis.fill_between(rows["nfe"], rows["rmse_low"], rows["rmse_high"], alpha=0.15)
    axis.set(
        xscale="log", yscale="log", xlabel="network evaluations (NFE)", ylabel="RMS distance in the sector", title=title
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def image_rows(images: Mapping[str, NDArray[np.uint8]], labels: Sequence[str]) -> Figure:
    """Rows of images: for each name, (K, len(labels), H, W) uint8, K columns; a label beside each row."""
    total = len(images) * len(labels)
    columns = next(iter(images.values())).shape[0]
    figure, axes = plt.subplots(total, columns, figsize=(2.4 * columns, 2.4 * total), squeeze=False)
    for i, (name, stack) in enumerate(images.items()):
        for j, label in enumerate(labels):
            for k in range(columns):
                axis = axes[i * len(labels) + j, k]
                axis.imshow(stack[k, j], cmap="gray", vmin=0, vmax=255)
                axis.set(xticks=[], yticks=[])
                axis.set_ylabel(f"{name}\n{label}" if k == 0 else "", fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure
