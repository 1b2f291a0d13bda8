"""Condition maps: real masks, deformed by random parameters that are recorded.

Source: Echo from Noise (Stojanovski et al. 2023), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from echo_synth import checksums
from echo_synth.data import nnunet_raw
from echo_synth.data.allotment import allot
from echo_synth.data.deformation import SIZE, apply, draw
from echo_synth.data.facts import origin_of_dataset
from echo_synth.data.heart_shape import ejection_fraction, ventricle
from echo_synth.data.leakage import refuse_test_patients
from echo_synth.data.plausible import Plausible
from echo_synth.data.png import read_png
from echo_synth.data.resize import rescale_spacing
from echo_synth.data.subject import Subject, need_heart, subject_of, write_subject
from echo_synth.data.tables import MAPS_INDEX, MOST_ROWS, MOST_VALUES, read_index
from echo_synth.data.tissue_colours import tissue_colours
from echo_synth.data.tissues import BEYOND, OTHER_TISSUE, anatomy, visible
from echo_synth.errors import DataError
from echo_synth.files import read_json, write_json
from echo_synth.folders import mark, new_folder
from echo_synth.metrics.volumes import LongAxis
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.specs import MapSpec

MADE_BY = "make-maps"
_AXIS = "axis"  # of a row while it is made: the ventricle that EF is measured from
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


def check_recipe(subject: Subject, spec: MapSpec) -> None:
    """Raise DataError where a recipe measures hearts and `subject` is none."""
    measures = {"measure_ef": spec.measure_ef, "ef_balance": spec.ef_balance, "anatomy": spec.anatomy}
    for key in (key for key, value in measures.items() if value):
        need_heart(subject, f"--recipe with {key}", "choose --recipe paper, or a recipe file without that key")


def load_whole(dataset: nnunet_raw.RawDataset, case: str, split: str) -> NDArray[np.uint8]:
    """Map (256, 256) uint8, ids 0..7, see `tissues.whole_map`, of one case of a raw dataset. Raises DataError as `derive`."""
    return nnunet_raw.derive(dataset, case, split, SIZE).whole


def map_name(case: str, repeat: int, seed: int) -> str:
    """Name of a map, and of the synthetic case drawn from it: patient0001_2CH_ED_aug3_seed0."""
    return f"{case}_aug{repeat}_seed{seed}"


@dataclass(frozen=True)
class _Job:
    """All maps of one patient.

    Attributes:
        rows: of cases.csv, sorted by case.
        repeats: maps of each mask.
    """

    rows: list[dict[str, Any]]
    repeats: int


def _jobs(sources: pd.DataFrame, spec: MapSpec) -> list[_Job]:
    """A job a patient. Raises DataError where EF is to be balanced and no patient's is known."""
    patients = {str(p): rows for p, rows in sources.groupby("patient", sort=False)}
    stated = {p: float(rows["ef"].iloc[0]) if "ef" in rows else math.nan for p, rows in patients.items()}
    if spec.ef_balance and all(math.isnan(ef) for ef in stated.values()):
        raise DataError(
            "cases.csv: states no patient's ef, by which this recipe balances the maps; "
            "choose --recipe paper, or a recipe file with ef_balance: null"
        )
    repeats = allot(stated, spec.repeats, spec.ef_balance)
    return [_Job([_named(r) for r in rows.to_dict("records")], repeats[p]) for p, rows in patients.items()]


def _check_count(jobs: Sequence[_Job], spec: MapSpec) -> None:
    """Raise DataError where the index would hold more values than any command reads, before hours of work."""
    maps = sum(len(job.rows) * job.repeats for job in jobs)
    values = len(MAPS_INDEX.columns) + 2 * spec.elastic_control_points**2
    most = min(MOST_ROWS, MOST_VALUES // values)
    if maps > most:
        raise DataError(
            f"{maps} maps: their index would hold {maps * values} numbers, expected at most {most} maps; choose fewer --repeats"
        )


def _named(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


def _make_patient(job: _Job, dataset: nnunet_raw.RawDataset, folder: Path, spec: MapSpec, seed: int) -> pd.DataFrame:
    """Worker: all maps of one patient; returns their rows of the index."""
    keep = _kept(spec)
    masks = {row["case"]: keep(load_whole(dataset, row["case"], row["split"])) for row in job.rows}
    together: dict[str, list[dict[str, Any]]] = {}
    for row in job.rows:
        name = f"{row['patient']}_{row['view']}" if spec.share_deformation else row["case"]
        together.setdefault(name, []).append(row)
    made = []
    for name, rows in together.items():
        of_these = [masks[row["case"]] for row in rows]
        allowed = [Plausible(of_these, spec.anatomy)] if spec.anatomy else []
        for repeat in range(job.repeats):
            # The seed sequence names what moves as one, not its position: a subset of patients gets the same maps.
            rng = np.random.default_rng([seed, repeat, *name.encode()])
            transformation = draw(rng, spec, *allowed)
            for row, mask in zip(rows, of_these, strict=True):
                moved = keep(apply(mask, transformation))
                write_map(folder / f"{map_name(row['case'], repeat, seed)}.png", moved)
                made.append(_index_row(row, repeat, seed) | transformation.record() | {_AXIS: _axis(moved, row, spec)})
    index = pd.DataFrame(made).sort_values(["source_case", "repeat"], kind="stable")
    return _with_fractions(index, masks, job.rows) if spec.measure_ef else index.drop(columns=_AXIS)


def _kept(spec: MapSpec) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """What a recipe keeps of a whole map: all of it, or what the sector shows."""
    return _all_of_it if spec.beyond_sector else visible


def _all_of_it(whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return whole


def _index_row(row: Mapping[str, Any], repeat: int, seed: int) -> dict[str, Any]:
    source = {"source_case": row["case"], **{key: row[key] for key in ("patient", "view", "phase", "split")}}
    height, width = _spacing(row)
    size_mm = {"spacing_row_mm": height, "spacing_column_mm": width}
    return {"map": map_name(row["case"], repeat, seed), **source, "repeat": repeat, **size_mm}


def _spacing(row: Mapping[str, Any]) -> tuple[float, float]:
    """mm a pixel of the map, down and across."""
    grid = (int(row["rows"]), int(row["columns"]))
    return rescale_spacing((row["spacing_row_mm"], row["spacing_column_mm"]), grid, (SIZE, SIZE))


def _axis(map_: NDArray[np.uint8], row: Mapping[str, Any], spec: MapSpec) -> LongAxis | None:
    return ventricle(anatomy(map_), _spacing(row)) if spec.measure_ef else None


def _with_fractions(
    index: pd.DataFrame, masks: Mapping[str, NDArray[np.uint8]], rows: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """EF of the source's four masks and of the four maps of each repeat, in every row; their axes are left out.

    NaN where a patient has several images of a view and phase: which of them belong to one beat is not known.
    """
    if len({(r["view"], r["phase"]) for r in rows}) < len(rows):
        return index.drop(columns=_AXIS).assign(source_ef=math.nan, ef=math.nan)
    source = ejection_fraction(
        {(r["view"], r["phase"]): ventricle(anatomy(masks[r["case"]]), _spacing(r)) for r in rows}
    )
    moved = {
        repeat: ejection_fraction(dict(zip(zip(m["view"], m["phase"], strict=True), m[_AXIS], strict=True)))
        for repeat, m in index.groupby("repeat")
    }
    return index.drop(columns=_AXIS).assign(source_ef=source, ef=index["repeat"].map(moved).astype(float))


def write_map(path: Path, map_: NDArray[np.uint8]) -> None:
    """Ids 0..7 as a palette PNG: small, lossless, and viewable in colour; beyond the sector half as bright."""
    colours = tissue_colours()
    image = Image.fromarray(map_, mode="P")
    image.putpalette(np.concatenate([colours, colours[1:OTHER_TISSUE] // 2]).ravel().tolist())
    image.save(path)


def read_map(path: Path) -> NDArray[np.uint8]:
    """Ids 0..7 (256, 256) uint8 of a map file, see `tissues.whole_map`. Raises DataError when it is not one."""
    map_ = read_png(path, ("P", "L"), (SIZE, SIZE))
    if map_.max() >= OTHER_TISSUE + BEYOND:
        raise DataError(f"{path}: expected ids 0 to {OTHER_TISSUE + BEYOND - 1}, found {map_.max()}")
    return map_


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
        transformation from which `Transformation.from_record` makes the map again; where the recipe measures
        it, ef and source_ef (%).
    """
    check_recipe(dataset.subject, spec)
    jobs = _jobs(sources, spec)
    _check_count(jobs, spec)
    with new_folder(folder, MADE_BY, overwrite, [dataset.path]) as new:
        work = partial(_make_patient, dataset=dataset, folder=new, spec=spec, seed=seed)
        parts = track(parallel_map(work, jobs, workers), len(jobs), "make-maps", "patients")
        index = pd.concat(list(parts), ignore_index=True)
        index.to_parquet(new / "index.parquet", index=False)
        write_subject(new, dataset.subject)
        write_json(new / "held_out.json", sorted(nnunet_raw.test_patients(dataset)))
        write_json(new / "settings.json", {**settings, "source": origin_of_dataset(dataset.path)})
        mark(new, MADE_BY)  # the record is of all that is there
        checksums.record(new)
    return index


@dataclass(frozen=True)
class MapFolder:
    """A folder of condition maps with its index."""

    path: Path
    index: pd.DataFrame

    @property
    def subject(self) -> Subject:
        """What the maps' dataset shows; raises DataError if subject.json is damaged."""
        return subject_of(self.path)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Tissue ids 0..4 (256, 256) uint8 of one map: the condition of a generator."""
        return visible(self.read_whole(name))

    def read_labels(self, name: str) -> NDArray[np.uint8]:
        """nnU-Net labels 0..3 (256, 256) uint8 of one map, with the anatomy beyond the sector if the recipe keeps it."""
        return anatomy(self.read_whole(name))

    def read_whole(self, name: str) -> NDArray[np.uint8]:
        """Ids 0..7 (256, 256) uint8 of one map, see `tissues.whole_map`."""
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
