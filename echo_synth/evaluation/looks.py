"""How real the images of a dataset look: what of quality.json is compared between datasets, and which way is more real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Way = Literal["low", "high"]


@dataclass(frozen=True)
class Look:
    """A measure of looks.

    Attributes:
        column: of results.csv, where it is found.
        label: its name in tables and figures.
        real_is: whether images look the more real the lower it is, or the higher.
        ratio: whether the column is relative to real images; then the measure is its difference from 1, either way.
        least: what lies below it counts as it: by chance, not for looking more real.
    """

    column: str
    label: str
    real_is: Way
    ratio: bool = False
    least: float | None = None


# By the name that correlations.csv has for it.
LOOKS: dict[str, Look] = {
    "agreement": Look("agreement", "Agreement with the maps, Dice", "high"),
    "kernel_distance": Look("kernel_distance", "Kernel distance", "low"),
    "frechet_distance": Look("frechet_distance", "Fréchet distance", "low"),
    "real_or_synthetic": Look("real_or_synthetic_auroc", "AUROC, real or synthetic", "low", least=0.5),
    "grain_difference": Look("grain_ratio", "Grain's strength relative to real", "low", ratio=True),
    "grey_level_distance": Look("grey_level_distance", "Kolmogorov distance of grey levels", "low"),
    "diversity_difference": Look("diversity_ratio", "Diversity relative to real", "low", ratio=True),
    # A copy of a real image looks real, whatever else speaks against it.
    "near_copies": Look("near_copies", "Share of near copies", "high"),
}


def looks_of(quality: Mapping[str, Any]) -> dict[str, float | None]:
    """Columns of results.csv from a quality.json that `report.reading.read_quality` accepts; None for what it lacks.

    agreement (Dice, 0 to 1), kernel_distance, frechet_distance, real_or_synthetic_auroc, grain_ratio and diversity_ratio (synthetic over real),
    grey_level_distance (Kolmogorov, 0 to 1), near_copies (share of the images, 0 to 1).
    """
    features = (quality.get("features") or {}).get("synthetic") or {}
    diversity, texture = quality.get("diversity") or {}, quality["texture"]
    grain = {name: (texture.get(name) or {}).get("grain", {}).get("median") for name in ("synthetic", "real")}
    means = {name: (diversity.get(name) or {}).get("mean") for name in ("synthetic", "real")}
    return {
        "agreement": ((quality.get("agreement") or {}).get("agreement") or {}).get("mean"),
        "kernel_distance": features.get("kernel_distance"),
        "frechet_distance": features.get("frechet_distance"),
        "real_or_synthetic_auroc": (quality.get("real_or_synthetic") or {}).get("auroc"),
        "grain_ratio": _ratio(grain),
        "grey_level_distance": quality["intensity"]["kolmogorov_distance"],
        "diversity_ratio": _ratio(means),
        "near_copies": quality["privacy"]["synthetic"]["share"],
    }


def _ratio(values: Mapping[str, float | None]) -> float | None:
    synthetic, real = values["synthetic"], values["real"]
    return synthetic / real if synthetic is not None and real else None


def look_values(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of LOOKS from those of `looks_of`, float, as far as `table` has them; ratios become |ratio − 1|, and an
    AUROC below 0.5 becomes 0.5."""
    known = {name: table[look.column].astype(float) for name, look in LOOKS.items() if look.column in table}
    turned = {
        name: (values - 1).abs() if LOOKS[name].ratio else values.clip(lower=LOOKS[name].least)
        for name, values in known.items()
    }
    return pd.DataFrame(turned, index=table.index).replace([np.inf, -np.inf], np.nan)


@dataclass(frozen=True)
class Outcome:
    """What trainings on a dataset reach on held-out real patients: its name in figures, and which way is better."""

    label: str
    better_is: Way


# By the name that results.csv and correlations.csv have for it.
OUTCOMES: dict[str, Outcome] = {
    "dice_lv_endo": Outcome("Dice, LV endocardium", "high"),
    "dice_lv_epi": Outcome("Dice, LV epicardium", "high"),
    "dice_la": Outcome("Dice, left atrium", "high"),
    "ef_mae": Outcome("mean absolute error of EF", "low"),
    "accuracy": Outcome("view accuracy", "high"),
}


def with_ways(correlations: pd.DataFrame) -> pd.DataFrame:
    """`rank_correlation.rank_correlations` of LOOKS and OUTCOMES, with columns real_is and better_is ("low" or "high")."""
    table = correlations.copy()
    table.insert(1, "real_is", [LOOKS[name].real_is for name in table["measure"]])
    table.insert(3, "better_is", [OUTCOMES[name].better_is for name in table["outcome"]])
    return table
