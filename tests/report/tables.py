"""Results that tests of the report show: a quality.json, a sweep's results.csv."""

from __future__ import annotations

import pandas as pd

_SHARE = {"flagged": 1, "images": 20, "patients": 10, "share": 0.05, "ci95": [0.0, 0.2]}
_RECALL = {"change": "rotated by 5°", "found": 49, "planted": 50, "share": 0.98, "ci95": [0.89, 1.0]}
_MEASURES = {name: {"median": 1.0} for name in ("axial_mm", "lateral_mm", "grain", "nakagami_m")}
_DISTANCES = {"kernel_distance": 0.1, "frechet_distance": 3.0}
_MEAN = {"mean": 0.8, "std": 0.1, "ci95": [0.7, 0.9], "n_images": 20, "n_patients": 10}
QUALITY = {
    "dataset": "Dataset601_EDM",
    "features": {"network": "a classifier", "synthetic": _DISTANCES, "unseen_real": _DISTANCES},
    "diversity": {"network": "efflite0", "synthetic": {"mean": 4.0}, "real": {"mean": 5.0}},
    "real_or_synthetic": {"auroc": 0.7, "ci95": [0.6, 0.8], "images": 40},
    "intensity": {"kolmogorov_distance": 0.1},
    "texture": {"synthetic": _MEASURES, "real": _MEASURES},
    "agreement": {"agreement": _MEAN, "limit": 0.7, "low": 1},
    "cavity_areas": [
        {"low": 1500, "high": 3000, "images": 3, "ratio": 1.2, "ci95": [1.1, 1.3]},
        {"low": 4500, "high": None, "images": 0, "ratio": None, "ci95": [None, None]},
    ],
    "privacy": {
        "rate": 0.05,
        "limits": {"pixels": 0.83},
        "limits_ci95": {"pixels": [0.8, None]},
        "synthetic": _SHARE,
        "unseen_real": _SHARE,
        "recall": [_RECALL],
    },
    "settings": {"rate": 0.05},
}
_CELLS = (
    ("edm-l64", 5, 0, 0.88),
    ("edm-l64", 5, 1, 0.90),
    ("edm-l64", 20, 0, 0.9),
    ("sdm", 5, 0, 0.5),
    ("sdm", 1000, 0, 0.91),
)


def _cell(row: str, nfe: int, seed: int, dice: float) -> dict[str, object]:
    identity = {"cell": f"{row}_nfe{nfe}_seed{seed}", "kind": "synthetic", "row": row, "model": row}
    numbers = {"nfe": nfe, "seed": seed, "count": 8, "state": "done", "seconds_per_image": nfe * 0.01}
    return (
        identity | numbers | {"dice_lv_endo": dice, "dice_lv_endo_low": dice - 0.02, "dice_lv_endo_high": dice + 0.01}
    )


def sweep_table() -> pd.DataFrame:
    """results.csv of a small sweep: two models, one of them with two seeds, and the real data."""
    scores = {"dice_lv_endo": 0.93, "dice_lv_endo_low": 0.92, "dice_lv_endo_high": 0.94}
    real = {"cell": "real", "kind": "real", "state": "1/5"} | scores
    return pd.DataFrame([*(_cell(*cell) for cell in _CELLS), real])
