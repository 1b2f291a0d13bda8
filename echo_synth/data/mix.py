"""Real and synthetic cases in one nnU-Net raw dataset, by reference: no image is copied.

nnU-Net reads the files named under "dataset" in dataset.json; the plugin's trainers read under
"sampling" how often each source is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echo_synth import __version__, checksums
from echo_synth.data import nnunet_raw
from echo_synth.data.card import KEY
from echo_synth.data.facts import content_of, origin_of_dataset, terms
from echo_synth.data.leakage import refuse_patients_of
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError
from echo_synth.files import write_json
from echo_synth.folders import maker, mark, new_folder

MADE_BY = "mix-datasets"


def choose_patients(real: RawDataset, count: int | None, seed: int) -> pd.DataFrame:
    """Rows of cases.csv: validation patients, and `count` training patients (all by default).

    A smaller choice with the same seed is part of a larger one.

    Raises DataError when there are fewer training patients, or no validation patients.
    """
    cases = real.cases()
    training = sorted(set(cases.loc[cases["split"] == "train", "patient"]))
    if count is not None and count > len(training):
        raise DataError(f"--patients {count}: {real.name} has {len(training)} training patients")
    if not (cases["split"] == "val").any():
        raise DataError(f"{real.name}: no validation cases, which decide nnU-Net's best checkpoint")
    order = np.random.default_rng(seed).permutation(len(training))[:count]
    chosen = {training[i] for i in order}
    return cases[(cases["split"] == "val") | ((cases["split"] == "train") & cases["patient"].isin(chosen))]


CONVERTED_BY = ("convert-camus", "convert")
DRAWN_BY = ("generate", "noise-dataset", "import-images")


def plan(real: RawDataset, synthetic: Sequence[RawDataset], patients: int | None, seed: int) -> pd.DataFrame:
    """cases.csv of the mixture: split, and the source dataset of each case. Validation is real.

    Raises DataError when real and synthetic datasets have changed places, hold a case of the same name or show different
    things, LeakageError when a synthetic one was drawn from maps of `real`'s test patients.
    """
    if (command := maker(real.path)) in DRAWN_BY:
        raise DataError(
            f"{real.name}: was made by 'echosynth {command}', expected real images; is --real the other one?"
        )
    for dataset in synthetic:
        if (command := maker(dataset.path)) in CONVERTED_BY:
            raise DataError(f"{dataset.name}: was made by 'echosynth {command}', expected synthetic images")
        refuse_patients_of(real, dataset.cases()["patient"], f"part of {dataset.name}")
    for dataset in synthetic:
        if dataset.subject.key() != real.subject.key():
            titles = f"'{dataset.subject.title}', {real.name} '{real.subject.title}'"
            raise DataError(f"{dataset.name}: shows {titles}, with other views or labels; mix datasets of one kind")
    parts = [choose_patients(real, patients, seed).assign(source=real.name)]
    for dataset in synthetic:
        cases = dataset.cases()
        training = cases[cases["split"] == "train"]
        _refuse_validating(real, dataset, training)
        parts.append(training.assign(source=dataset.name))
    table = pd.concat(parts, ignore_index=True)
    twice = table.loc[table["case"].duplicated(), "case"]
    if len(twice):
        raise DataError(f"{twice.iloc[0]} is in more than one of the datasets; draw them with different --seed")
    return table


def _refuse_validating(real: RawDataset, dataset: RawDataset, training: pd.DataFrame) -> None:
    table = real.cases()
    both = sorted(set(training["patient"]) & set(table.loc[table["split"] == "val", "patient"]))
    if both:
        raise DataError(
            f"{dataset.name}: has training images of {both[0]}, with whom {real.name} validates"
            f"{f' (and of {len(both) - 1} more)' if len(both) > 1 else ''}; draw it from maps of {real.name}, or import it with --real"
        )


def shares(real: RawDataset, synthetic: Sequence[RawDataset], share: float) -> dict[str, float]:
    """Part of the training images that each dataset gives: `share` goes to the synthetic ones in equal parts.

    Raises DataError unless `share` fits what there is.
    """
    if not 0 <= share < 1 or (share > 0) != bool(synthetic):
        raise DataError(f"--share {share:g}: expected more than 0 and less than 1 with --synthetic, 0 without")
    return {real.name: 1 - share} | {d.name: share / len(synthetic) for d in synthetic}


def write(
    path: Path,
    table: pd.DataFrame,
    parts: Mapping[str, float],
    sources: Sequence[RawDataset],
    settings: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Make the dataset folder of `table`, whose column source names one of `sources`; sampled as `parts` say."""
    by_name = {s.name: s for s in sources}
    files: dict[str, Any] = {}
    holders: dict[str, set[str]] = {name: set() for name in by_name}
    for row in table.to_dict("records"):
        source = by_name[row["source"]]
        image, label = source.image_path(row["case"], row["split"]), source.label_path(row["case"], row["split"])
        _refuse_missing(source, image, label)
        holders[source.name].add(image.parent.parent.name)
        # Relative, so that nnUNet_raw can move.
        files[row["case"]] = {"images": [os.path.relpath(image, path)], "label": os.path.relpath(label, path)}
    with new_folder(path, MADE_BY, overwrite, [s.path for s in sources]) as folder:
        nnunet_raw.check_alone(path)
        nnunet_raw.write_index(folder, table, sources[0].subject)
        described = nnunet_raw.dataset_json(len(table), sources[0].subject) | {"dataset": files}
        if len(parts) > 1:
            described["sampling"] = _by_holder(parts, holders)
        write_json(folder / "dataset.json", described)
        write_json(folder / "settings.json", {**settings, KEY: _facts(table, sources)})
        mark(folder, MADE_BY)
        checksums.record(folder)


def _refuse_missing(source: RawDataset, *files: Path) -> None:
    """Raise DataError where one is not there: nnU-Net would notice in the middle of its preprocessing."""
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{file}: missing, although cases.csv of {source.name} names its case; run the command that made {source.name} again"
            )


def _facts(table: pd.DataFrame, sources: Sequence[RawDataset]) -> dict[str, Any]:
    """What settings.json says of the mixture; "of" names each source with a hash of all its files, where that is known."""
    return {
        "made_by": MADE_BY,
        "version": __version__,
        "kind": "mixture",
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "of": {s.name: content_of(s.path) for s in sources},
        **terms(origin_of_dataset(s.path) for s in sources),
    }


def _by_holder(parts: Mapping[str, float], holders: Mapping[str, set[str]]) -> dict[str, float]:
    """Shares by the dataset whose folder holds the files; a source may itself refer to another dataset."""
    result: dict[str, float] = {}
    for name, share in parts.items():
        if len(holders[name]) != 1:
            raise DataError(f"{name} is a mixture itself; mix its sources instead")
        holder = next(iter(holders[name]))
        result[holder] = result.get(holder, 0.0) + share
    return result
