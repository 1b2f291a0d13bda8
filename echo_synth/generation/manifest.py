"""The plan of a dataset: which image comes from which map. Written down, it is the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echo_synth.data.maps import MapFolder
from echo_synth.errors import DataError
from echo_synth.files import write_atomic

MANIFEST = "manifest.parquet"


def plan_images(index: pd.DataFrame, count: int | None, seed: int) -> pd.DataFrame:
    """One row an image, in drawing order.

    Maps are taken in an order that follows from `seed` alone, so a smaller dataset is the start
    of a larger one, and two models with one seed draw the same maps. When `count` exceeds the
    number of maps they are used again with new noise.

    Args:
        index: of a map folder, see `data.maps.make_maps`.
        count: images; None for one a map.

    Returns:
        columns case, index, map, source_case, patient, view, phase, split, spacing.
    """
    count = len(index) if count is None else count
    order = np.random.default_rng([seed, 77]).permutation(len(index))
    rounds = np.arange(count) // len(index)
    rows = index.iloc[order[np.arange(count) % len(index)]].reset_index(drop=True)
    names = [f"{s}_aug{r}_seed{seed + k}" for s, r, k in zip(rows["source_case"], rows["repeat"], rounds, strict=True)]
    kept = ["map", "source_case", "patient", "view", "phase", "split", "spacing_row_mm", "spacing_column_mm"]
    result = rows[kept].copy()
    result.insert(0, "index", np.arange(count))
    result.insert(0, "case", names)
    return with_validation(result)


def fingerprint(maps: MapFolder, rows: pd.DataFrame) -> str:
    """First 16 hex digits of a SHA-256 of the plan and of the pixels that it names: changes when any of them does.

    Raises DataError when a map is missing.
    """
    digest = hashlib.sha256(rows.to_csv(index=False).encode())
    for name in sorted(set(rows["map"])):
        file = maps.path / f"{name}.png"
        try:
            digest.update(file.read_bytes())
        except OSError as e:
            raise DataError(f"{file}: cannot be read ({e.strerror}); make the maps again") from None
    return digest.hexdigest()[:16]


def with_validation(rows: pd.DataFrame) -> pd.DataFrame:
    """nnU-Net needs validation cases: where no source patient is one, every tenth patient becomes one."""
    patients = sorted(set(rows["patient"]))
    if (rows["split"] == "val").any() or len(patients) < 2:
        return rows
    chosen = set(patients[:: max(2, min(10, len(patients)))])
    return rows.assign(split=["val" if p in chosen else "train" for p in rows["patient"]])


def write_manifest(path: Path, rows: pd.DataFrame, recorded: Mapping[str, Any]) -> None:
    """manifest.parquet: a row an image with everything that it was made from; `recorded` is the same for all."""
    table = rows.rename(columns={"case": "image"}).assign(**recorded)
    write_atomic(path, lambda p: table.to_parquet(p, index=False))
