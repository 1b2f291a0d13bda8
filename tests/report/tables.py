"""Tables that tests of the report draw."""

from __future__ import annotations

import pandas as pd

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
