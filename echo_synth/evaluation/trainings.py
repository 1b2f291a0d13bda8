"""Trainings of one arm: the folders of their predictions, and the seeds that tell them apart in a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import DataError
from echo_synth.files import listed, read_json
from echo_synth.metrics.random_effects import Arm

GENERATOR_SEED, SEGMENTER_SEED = "generator_seed", "segmenter_seed"
_SEEDS = [GENERATOR_SEED, SEGMENTER_SEED]
_NAME = re.compile(r"gen(\d+)[_-]seg(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Training:
    """Predictions of one trained segmenter: their folder, the seed of the generator behind it and its own."""

    folder: Path
    generator_seed: int
    segmenter_seed: int


def find_trainings(folders: Sequence[Path]) -> tuple[Training, ...]:
    """The trainings of one arm.

    A folder holds masks, or folders with masks, one a training. Names with gen<G>_seg<S> state
    the two seeds; where one name does not, all trainings count as independent of each other.

    Raises DataError when a folder is missing, or two trainings are the same folder or have the same seeds.
    """
    found = [inner for folder in folders for inner in _with_masks(folder)]
    if len({f.resolve() for f in found}) < len(found):
        raise DataError(f"{found[0]}: the same predictions are given twice as trainings of one arm")
    named = [_NAME.search(folder.name) for folder in found]
    if all(named) and len(found) > 1:
        seeds = [(int(m[1]), int(m[2])) for m in named if m]
    else:
        seeds = [(i, i) for i in range(len(found))]
    twice = {pair for pair in seeds if seeds.count(pair) > 1}
    if twice:
        generator, segmenter = min(twice)
        raise DataError(f"{folders[0]}: two trainings of generator seed {generator} and segmenter seed {segmenter}")
    return tuple(Training(folder, *pair) for folder, pair in zip(found, seeds, strict=True))


def trained_on(folders: Sequence[Path]) -> str:
    """What an arm's segmenters were trained on, as predict-segmenter left it: 'Dataset501_CAMUS by TRAINER'; empty where it did not."""
    told = {_told(training.folder) for training in find_trainings(folders)}
    return ", ".join(sorted(filter(None, told)))


def _told(folder: Path) -> str:
    try:
        settings = read_json(folder / "settings.json")
    except DataError:
        return ""
    names = [settings.get(key) for key in ("dataset", "trainer")] if isinstance(settings, dict) else []
    known = [Path(name).name for name in names if isinstance(name, str)]
    return " by ".join(known) if len(known) == len(names) else ""


def _with_masks(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected predicted masks, CASE{ENDING}")
    inner = sorted(f for f in folder.iterdir() if f.is_dir() and listed(f, f"*{ENDING}"))
    return [folder] if listed(folder, f"*{ENDING}") or not inner else inner


def with_seeds(tables: Sequence[pd.DataFrame], trainings: Sequence[Training]) -> pd.DataFrame:
    """Tables of an arm's trainings as one, with columns training, generator_seed, segmenter_seed where there are several."""
    if len(tables) == 1:
        return tables[0]
    labelled = [
        table.assign(training=t.folder.name, generator_seed=t.generator_seed, segmenter_seed=t.segmenter_seed)
        for table, t in zip(tables, trainings, strict=True)
    ]
    return pd.concat(labelled, ignore_index=True)


def count_trainings(rows: pd.DataFrame) -> int:
    """Different pairs of seeds in a table; a table without their columns is of one training."""
    return len(seed_columns(rows).drop_duplicates())


def count_without_value(rows: pd.DataFrame, column: str) -> int:
    """Of several trainings in a table those that have no finite value of `column`: of these nothing can be averaged."""
    if count_trainings(rows) < 2:
        return 0
    finite = pd.Series(np.isfinite(rows[column].to_numpy(np.float64)), rows.index)
    return int((~finite.groupby([seed for _, seed in seed_columns(rows).items()]).any()).sum())


def seed_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns generator_seed, segmenter_seed of a table, int; 0 where it has none."""
    return pd.DataFrame({name: rows.get(name, 0) for name in _SEEDS}, index=rows.index).astype(np.int64)


def arm_of(rows: pd.DataFrame, column: str) -> Arm:
    """One column of a table (with patient, and seeds where there are several trainings) as the scores of an arm."""
    seeds = seed_columns(rows)
    return Arm(
        rows[column].to_numpy(np.float64),
        rows["patient"].to_numpy(str),
        seeds[GENERATOR_SEED].to_numpy(),
        seeds[SEGMENTER_SEED].to_numpy(),
    )
