"""Condition maps: a real mask, transformed by parameters that are drawn first and recorded.

Source: Echo from Noise (Stojanovski et al. 2023), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.deformation import SIZE, apply, draw
from echo_synth.data.leakage import refuse_test_patients
from echo_synth.data.png import read_png
from echo_synth.data.resize import rescale_spacing
from echo_synth.data.tables import read_index
from echo_synth.errors import DataError
from echo_synth.files import read_json, write_json
from echo_synth.folders import new_folder
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.specs import MapSpec

MADE_BY = "make-maps"
_MAP_COLUMNS = ("view", "phase", "split", "rows", "columns", "spacing_row_mm", "spacing_column_mm")


def select_sources(dataset: nnunet_raw.RawDataset, patients: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows of cases.csv whose masks may become maps: training and validation patients.

    Raises LeakageError when `patients` names a held-out one, DataError for an unknown one.
    """
    cases = dataset.cases()
    held_out = nnunet_raw.test_patients(dataset)
    if patients is not None:
        refuse_test_patients(patients, held_out, "condition maps")
        unknown = sorted(set(patients) - set(cases["patient"]))
        if unknown:
            raise DataError(f"--patients: {unknown[0]} is not in {dataset.path}/cases.csv")
        cases = cases[cases["patient"].isin(patients)]
    sources = cases[cases["split"] != "test"].sort_values("case").reset_index(drop=True)
    if sources.empty:
        raise DataError(f"{dataset.path}: no training or validation case to make maps from")
    return sources


def load_tissues(dataset: nnunet_raw.RawDataset, case: str, split: str, size: int = SIZE) -> NDArray[np.uint8]:
    """Tissue map (size, size) uint8, ids 0..4, of one case of a raw dataset. Raises DataError as `derive`."""
    return nnunet_raw.derive(dataset, case, split, size).tissues


def map_name(case: str, repeat: int, seed: int) -> str:
    """Name of a map, and of the synthetic case drawn from it: patient0001_2CH_ED_aug3_seed0."""
    return f"{case}_aug{repeat}_seed{seed}"


def _make_one(
    row: Mapping[str, Any], dataset: nnunet_raw.RawDataset, folder: Path, spec: MapSpec, seed: int
) -> list[dict[str, Any]]:
    """Worker: all maps of one mask; returns their rows of the index."""
    tissues = load_tissues(dataset, row["case"], row["split"])
    grid = (int(row["rows"]), int(row["columns"]))
    spacing = rescale_spacing((row["spacing_row_mm"], row["spacing_column_mm"]), grid, (SIZE, SIZE))
    made = []
    for repeat in range(spec.repeats):
        # The seed sequence names the case, not its position: a subset of patients gets the same maps.
        rng = np.random.default_rng([seed, repeat, *row["case"].encode()])
        transformation = draw(rng, spec)
        name = map_name(row["case"], repeat, seed)
        write_map(folder / f"{name}.png", apply(tissues, transformation))
        source = {"source_case": row["case"], **{key: row[key] for key in ("patient", "view", "phase", "split")}}
        size_mm = {"spacing_row_mm": spacing[0], "spacing_column_mm": spacing[1]}
        made.append({"map": name, **source, "repeat": repeat, **size_mm, **transformation.record()})
    return made


def write_map(path: Path, tissues: NDArray[np.uint8]) -> None:
    """Tissue ids as a palette PNG: small, lossless, and viewable in colour."""
    image = Image.fromarray(tissues, mode="P")
    image.putpalette([c for t in specs.labels().tissues.values() for c in t.colour])
    image.save(path)


def read_map(path: Path) -> NDArray[np.uint8]:
    """Tissue ids 0..4 (256, 256) uint8 of a map file. Raises DataError when it is not one."""
    tissues = read_png(path, ("P", "L"), (SIZE, SIZE))
    if tissues.max() >= len(specs.labels().tissues):
        raise DataError(f"{path}: expected tissue ids 0 to 4, found {tissues.max()}")
    return tissues


def make_maps(
    dataset: nnunet_raw.RawDataset,
    sources: pd.DataFrame,
    folder: Path,
    spec: MapSpec,
    seed: int,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    workers: int | None = None,
) -> pd.DataFrame:
    """Write every map of `sources` and index.parquet into `folder`, complete or not at all.

    Returns:
        the index: map, source_case, patient, view, phase, split, repeat, spacing (mm), and the
        transformation from which `Transformation.from_record` makes the map again.
    """
    with new_folder(folder, MADE_BY, overwrite, [dataset.path]) as new:
        work = partial(_make_one, dataset=dataset, folder=new, spec=spec, seed=seed)
        rows = sources.to_dict("records")
        batches = track(parallel_map(work, rows, workers), len(rows), "make-maps", "masks")
        index = pd.DataFrame([row for batch in batches for row in batch])
        index.to_parquet(new / "index.parquet", index=False)
        write_json(new / "held_out.json", sorted(nnunet_raw.test_patients(dataset)))
        write_json(new / "settings.json", dict(settings))
    return index


@dataclass(frozen=True)
class MapFolder:
    """A folder of condition maps with its index."""

    path: Path
    index: pd.DataFrame

    def read(self, name: str) -> NDArray[np.uint8]:
        """Tissue ids (256, 256) of one map."""
        return read_map(self.path / f"{name}.png")


def open_maps(folder: Path) -> MapFolder:
    """Open a map folder and check that no held-out patient is in it.

    Raises DataError when it is not a map folder, LeakageError when a test patient is found.
    """
    file = folder / "index.parquet"
    if not file.is_file():
        raise DataError(f"{file}: missing; --maps expects a folder made by 'echosynth make-maps'")
    index = read_index(file)
    refuse_test_patients(index["patient"], read_held_out(folder), f"condition maps in {folder}")
    for row in index.itertuples():  # a patient column that lies would hide a held-out patient
        if not str(row.source_case).startswith(f"{row.patient}_"):
            raise DataError(f"{file}: map {row.map} is of {row.source_case}, its patient column says {row.patient}")
    return MapFolder(folder, index)


def read_held_out(folder: Path) -> list[str]:
    """Test patients of the dataset that the maps of `folder` were made from. Raises DataError when it is no list of names."""
    file = folder / "held_out.json"
    names = read_json(file)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{file}: expected a list of patients such as ["patient0001"]')
    return names
