"""Which rows of a sweep's results.csv are what: drawn images, real ones, noise, simulated physics."""

from __future__ import annotations

import pandas as pd

MONEY = "money_per_1000_images"  # of drawing, in the currency of --price; only where one was named


def grid(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of results.csv that belong to the grid of models x NFE."""
    return table[table["kind"] == "synthetic"]


def all_real(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of real data with all of its patients, whatever the cells are named, a row a repeat; trained as the grid's where some are."""
    real = table[table["kind"] == "real"]
    return _as_the_grid(real[real["patients"].isna()] if "patients" in real else real)


def all_noise(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the floor, a row a repeat: of noise cells with different numbers of images the largest."""
    return _largest(table, "noise")


def all_bmode(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of simulated physics, chosen as `all_noise`."""
    return _largest(table, "bmode")


def _largest(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    rows = _as_the_grid(table[table["kind"] == kind])
    known = "count" in rows and rows["count"].notna().any()
    return rows[rows["count"] == rows["count"].max()] if known else rows


def _as_the_grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Those without epochs of their own, whose segmenters trained as long as the grid's; all where there is none."""
    usual = rows[rows["epochs"].isna()] if "epochs" in rows else rows
    return usual if len(usual) else rows
