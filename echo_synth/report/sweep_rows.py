"""Which rows of a sweep's results.csv are what: drawn images, real ones, noise, simulated physics."""

from __future__ import annotations

import pandas as pd

MONEY = "money_per_1000_images"  # of drawing, in the currency of --price; only where one was named


def grid(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of results.csv that belong to the grid of models x NFE."""
    return table[table["kind"] == "synthetic"]


def all_real(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of real data with all of its patients, whatever the cells are named, a row a repeat."""
    real = table[table["kind"] == "real"]
    return real[real["patients"].isna()] if "patients" in real else real


def all_noise(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the floor, a row a repeat: of noise cells with different numbers of images the largest."""
    return _largest(table, "noise")


def all_bmode(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of simulated physics, chosen as `all_noise`."""
    return _largest(table, "bmode")


def _largest(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    rows = table[table["kind"] == kind]
    known = "count" in rows and rows["count"].notna().any()
    return rows[rows["count"] == rows["count"].max()] if known else rows
