"""index.parquet and held_out.json of maps, cases.csv and dataset.json of a dataset, damaged."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from io import BytesIO
from pathlib import Path

import pandas as pd

from echo_synth.data import mix, nnunet_raw
from echo_synth.data.maps import open_maps, select_sources
from echo_synth.generation.manifest import plan_images
from echo_synth.types import SPLITS, VIEWS
from tests.fuzz.harness import Kind, mutate

_VALUES = [
    *(None, float("nan"), -1, 0, "", "../x", "/absolute/path", "a" * 300, "patient0001", "3CH", "TEST", "test "),
    *(1e300, "a\nb", "<b>", "\0", "ü"),
]


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """One kind a table."""
    raw = next((base / "home/nnunet/raw").glob("Dataset501_*"))
    dataset = scratch / "Dataset501_X"
    dataset.mkdir()
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        os.symlink(raw / folder, dataset / folder)
    shutil.copy(raw / "dataset.json", dataset)
    target = nnunet_raw.RawDataset(dataset)
    return [_index(base, scratch), _cases(raw, target), _dataset_json(raw, target)]


def _parquet(table: pd.DataFrame) -> bytes:
    data = BytesIO()
    table.to_parquet(data, index=False)
    return data.getvalue()


def _index(base: Path, scratch: Path) -> Kind:
    maps = next((base / "home/maps").glob("Dataset501_*"))
    whole, held = (maps / "index.parquet").read_bytes(), (maps / "held_out.json").read_bytes()
    table, folder = pd.read_parquet(maps / "index.parquet"), scratch / "maps"
    patients = json.dumps(sorted(set(table["patient"]))).encode()
    lies = [b"null", b"5", b"{}", b"[1]", b"[[1]]", b'"x"', b"", b"[" * 100000, patients]
    folder.mkdir()

    def make(rng: random.Random, _: int) -> tuple[bytes, bytes]:
        how, column, value = rng.randrange(6), rng.choice(list(table)), rng.choice(_VALUES)
        if how == 0:
            return mutate(rng, whole, rng.choice([1, 1, 2])), held
        if how == 5:
            return whole, rng.choice(lies)
        damaged = table.astype({column: object})
        damaged[column] = [value] * len(table) if rng.random() < 0.5 else table[column].map(str)
        changes = [table.drop(columns=[column]), table.iloc[:0], pd.concat([table, table]), damaged]
        try:
            return _parquet(changes[how - 1]), held
        except Exception:  # not everything can be written
            return whole, held

    def read(damaged: tuple[bytes, bytes]) -> None:
        (folder / "index.parquet").write_bytes(damaged[0])
        (folder / "held_out.json").write_bytes(damaged[1])
        for row in plan_images(open_maps(folder).index, 6, 0).to_dict("records"):
            assert row["view"] in VIEWS
            assert "/" not in str(row["case"]), "a case name that leaves the folder"
            assert row["split"] in ("train", "val"), "a split that is neither train nor val"
            for name in ("spacing_row_mm", "spacing_column_mm"):
                assert math.isfinite(row[name]), "accepted a spacing that is no number"
                assert row[name] > 0, "accepted a spacing that is no length"

    return Kind("maps_index", make, read)


def _cases(raw: Path, target: nnunet_raw.RawDataset) -> Kind:
    whole = (raw / "cases.csv").read_bytes()
    table = pd.read_csv(BytesIO(whole), dtype=str, keep_default_na=False)

    def make(rng: random.Random, number: int) -> bytes:
        how, column = rng.randrange(6), rng.choice(list(table))
        if how == 0:
            return mutate(rng, whole)
        if how == 5:
            return whole.decode().encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
        damaged = table.copy()
        damaged.loc[rng.randrange(len(table)), column] = str(rng.choice(_VALUES))
        twice = pd.concat([table, table.sample(3, random_state=number)])
        return [table.drop(columns=[column]), table.iloc[:0], twice, damaged][how - 1].to_csv(index=False).encode()

    def read(data: bytes) -> None:
        (target.path / "cases.csv").write_bytes(data)
        cases, sources = target.cases(), select_sources(target)
        assert not set(sources["patient"]) & nnunet_raw.test_patients(target), "a patient on both sides passes"
        assert set(cases["split"]) <= set(SPLITS), "an unknown split passes"
        assert not cases["case"].duplicated().any(), "a case twice passes"
        mix.choose_patients(target, None, 0)

    return Kind("cases_csv", make, read)


def _dataset_json(raw: Path, target: nnunet_raw.RawDataset) -> Kind:
    whole = (raw / "dataset.json").read_bytes()
    count = json.loads(whole)["numTraining"]
    case = "patient0001_2CH_ED"
    lies = [
        *(
            '"numTraining": "x"',
            '"numTraining": null',
            '"numTraining": -1',
            '"dataset": 5',
            f'"dataset": {{"{case}": 5}}',
        ),
        *(f'"dataset": {{"{case}": {{"images": []}}}}', '"numTraining": 1e999', '"numTraining": true'),
        f'"dataset": {{"{case}": {{"images": ["../../../x"], "label": "/etc/passwd"}}}}',
    ]

    def make(rng: random.Random, _: int) -> bytes:
        lie = whole.replace(f'"numTraining": {count}'.encode(), rng.choice(lies).encode())
        return rng.choice([mutate(rng, whole), b"[]", b"5", b"null", b"{}", lie])

    def read(data: bytes) -> None:
        nnunet_raw._read_references.cache_clear()
        (target.path / "dataset.json").write_bytes(data)
        nnunet_raw.training_count(target)
        for path in (target.image_path(case, "train"), target.label_path(case, "train")):
            assert path.name.startswith(case), "a reference that leaves the datasets passes"

    return Kind("dataset_json", make, read)
