"""Tables that tests of the report draw."""

from __future__ import annotations

import pandas as pd


def sweep_table() -> pd.DataFrame:
    """results.csv of a small sweep: two models, one of them with two seeds, and the real data."""
    cells = [
        {"cell": f"{row}_nfe{n}_seed{seed}", "kind": "synthetic", "row": row, "model": row, "nfe": n, "seed": seed, "count": 8, "state": "done",
         "seconds_per_image": n * 0.01, "dice_lv_endo": dice, "dice_lv_endo_low": dice - 0.02, "dice_lv_endo_high": dice + 0.01}
        for row, n, seed, dice in (("edm-l64", 5, 0, 0.88), ("edm-l64", 5, 1, 0.90), ("edm-l64", 20, 0, 0.9), ("sdm", 5, 0, 0.5), ("sdm", 1000, 0, 0.91))
    ]  # fmt: skip
    real = {"cell": "real", "kind": "real", "state": "1/5", "dice_lv_endo": 0.93, "dice_lv_endo_low": 0.92, "dice_lv_endo_high": 0.94}  # fmt: skip
    return pd.DataFrame([*cells, real])
