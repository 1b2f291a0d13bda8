"""Condition maps: a real mask, transformed by parameters that are drawn first and recorded.

Source: Echo from Noise (Stojanovski et al. 2023), section 3.1; SPEC, "Datasets".
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
from echo_synth.data.resize import rescale_spacing, resize_labels
from echo_synth.data.tissues import sector_mask, tissue_map
from echo_synth.errors import DataError
from echo_synth.files import new_folder, read_json, write_json
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.specs import MapSpec


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
    """Tissue map (size, size) uint8 of one case of a raw dataset."""
    labels = nnunet_raw.read_pixels(dataset.label_path(case, split))
    sector = sector_mask(nnunet_raw.read_pixels(dataset.image_path(case, split)))
    return tissue_map(resize_labels(labels, (size, size)), resize_labels(sector, (size, size)).astype(bool))


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
        made.append(
            {"map": name, "source_case": row["case"], "patient": row["patient"], "view": row["view"],
             "phase": row["phase"], "split": row["split"], "repeat": repeat,
             "spacing_row_mm": spacing[0], "spacing_column_mm": spacing[1], **transformation.record()}
        )  # fmt: skip
    return made


def write_map(path: Path, tissues: NDArray[np.uint8]) -> None:
    """Tissue ids as a palette PNG: small, lossless, and viewable in colour."""
    image = Image.fromarray(tissues, mode="P")
    image.putpalette([c for t in specs.labels().tissues.values() for c in t.colour])
    image.save(path)


def read_map(path: Path) -> NDArray[np.uint8]:
    """Tissue ids (256, 256) uint8 of a map file. Raises DataError when it is not one."""
    try:
        tissues = np.asarray(Image.open(path), dtype=np.uint8)
    except OSError as e:
        raise DataError(f"{path}: not readable as a condition map ({e})") from None
    if tissues.shape != (SIZE, SIZE) or tissues.max() >= len(specs.labels().tissues):
        raise DataError(f"{path}: expected a {SIZE} x {SIZE} map of tissue ids 0 to 4, found {tissues.shape}")
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
    with new_folder(folder, overwrite) as new:
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
    index = pd.read_parquet(file)
    refuse_test_patients(index["patient"], read_json(folder / "held_out.json"), f"condition maps in {folder}")
    return MapFolder(folder, index)
