"""cases.csv and its siblings: one schema, every lie named by file, column and row; folds by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echo_synth.data import mix, nnunet_raw, tables
from echo_synth.data.camus import choose_some, hold_out_validation
from echo_synth.data.folds import patient_folds
from echo_synth.data.leakage import refuse_patients_of
from echo_synth.data.maps import open_maps
from echo_synth.data.tables import read_cases, read_manifest
from echo_synth.errors import DataError, LeakageError
from echo_synth.files import LISTS_CASES


def _cases(path: Path, **changes: object) -> Path:
    names = [(f"patient{i:04d}", v, p) for i in (1, 2, 3) for v in ("2CH", "4CH") for p in ("ED", "ES")]
    table = pd.DataFrame(names, columns=["patient", "view", "phase"])
    table.insert(0, "case", table["patient"] + "_" + table["view"] + "_" + table["phase"])
    table["split"] = table["patient"].map({"patient0001": "train", "patient0002": "val", "patient0003": "test"})
    table["ef"] = 55
    for name, value in changes.items():
        table[name] = table[name].astype(object)
        table.loc[1, name] = value
    table.to_csv(path, index=False)
    return path


def test_a_right_table_is_read_as_it_is(tmp_path: Path) -> None:
    table = read_cases(_cases(tmp_path / "cases.csv"))
    assert len(table) == 12
    assert table["ef"].eq(55).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "TEST"}, "column 'split', row 2: found 'TEST', expected train or val or test"),
        ({"split": "test"}, "patient0001 is in test and in train"),
        ({"view": "3CH"}, "column 'view', row 2: found '3CH'"),
        ({"case": "../patient0001"}, "column 'case', row 2: found '../patient0001'"),
        ({"case": "patient0001_2CH_ED"}, "patient0001_2CH_ED is listed twice"),
        ({"patient": None}, "column 'patient', row 2: found 'nothing'"),
        ({"ef": "inf"}, "column 'ef', row 2: found .*, expected a number from 0 to 100 %"),
        ({"ef": 250}, "expected a number from 0 to 100 %"),
        ({"ef": "x"}, "column 'ef', row 2: found 'x'"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_cases(_cases(tmp_path / "cases.csv", **changes))


@pytest.mark.parametrize("code", ["utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path: Path, code: str) -> None:
    path = _cases(tmp_path / "cases.csv")
    path.write_bytes((path.read_text() + "ü").encode(code))
    with pytest.raises(DataError, match="not UTF-8"):
        read_cases(path)


def test_the_mark_of_windows_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = _cases(tmp_path / "cases.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_cases(path)) == 12


def _split(count: int, val: int = 0) -> dict[str, str]:
    return {f"patient{i:04d}": "val" if i <= val else "train" for i in range(1, count + 1)}


def _table(split_of: dict[str, str]) -> pd.DataFrame:
    rows = [(f"{p}_{v}", p, s) for p, s in split_of.items() for v in ("2CH", "4CH")]
    return pd.DataFrame(rows, columns=["case", "patient", "split"])


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (3, 3), (6, 5), (40, 5)])
def test_folds_keep_patients_apart_and_validate_each_once(count: int, folds: int) -> None:
    table = _table(_split(count, val=1))
    made = patient_folds(table)
    assert len(made) == folds
    patients = dict(zip(table["case"], table["patient"], strict=True))
    validated = [patients[case] for fold in made for case in fold["val"]]
    assert len(validated) == len(set(validated)) * 2
    for fold in made:
        assert not {patients[c] for c in fold["train"]} & {patients[c] for c in fold["val"]}
        assert sorted(fold["train"] + fold["val"]) == sorted(table["case"])
    if count > 4:
        assert set(validated) == set(table["patient"])


def test_a_mixture_validates_on_real_cases_alone() -> None:
    real = _table(_split(9, val=1)).assign(source="Dataset501_REAL")
    drawn = real[real["split"] == "train"].assign(source="Dataset601_DRAWN", case=lambda t: t["case"] + "_aug0")
    folds = patient_folds(pd.concat([real, drawn], ignore_index=True))
    assert len(folds) == 5
    for fold in folds:
        assert not [case for case in fold["val"] if case.endswith("_aug0")]
        assert not {c[:11] for c in fold["train"]} & {c[:11] for c in fold["val"]}


def test_a_split_without_validation_gets_some_patients() -> None:
    split = hold_out_validation(_split(25))
    assert [p for p, s in split.items() if s == "val"] == ["patient0001", "patient0011", "patient0021"]
    assert hold_out_validation(_split(5, val=2)) == _split(5, val=2)
    with pytest.raises(DataError, match="expected at least two"):
        hold_out_validation(_split(1))


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_a_few_patients_come_from_every_split(count: int) -> None:
    split = _split(30, val=4) | {"patient0900": "test", "patient0901": "test"}
    few = choose_some(split, count)
    assert len(few) == count
    assert few.items() <= split.items()
    assert {"train", "val"} <= set(few.values())
    assert ("test" in few.values()) == (count > 2)


def test_test_patients_are_refused_for_their_dataset_whoever_names_them(home: Path) -> None:
    dataset = nnunet_raw.find(501)
    maps = open_maps(home / "maps/Dataset501_PHANTOM")
    refuse_patients_of(dataset, maps.index["patient"], "condition maps")
    held = sorted(nnunet_raw.test_patients(dataset))[0]
    with pytest.raises(LeakageError, match=f"{held}.*condition maps, for {dataset.name}"):
        refuse_patients_of(dataset, [*maps.index["patient"], held], "condition maps")


def test_a_manifest_is_read_by_its_schema(home: Path, tmp_path: Path) -> None:
    index = open_maps(home / "maps/Dataset501_PHANTOM").index
    kept = ["map", "source_case", "patient", "view", "phase", "split", "spacing_row_mm", "spacing_column_mm"]
    manifest = index[kept].assign(image=index["map"], index=range(len(index)))
    manifest.to_parquet(tmp_path / "manifest.parquet")
    assert len(read_manifest(tmp_path / "manifest.parquet")) == len(index)
    manifest.assign(split="test").to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(DataError, match="column 'split', row 1: found 'test', expected train or val"):
        read_manifest(tmp_path / "manifest.parquet")
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="not a parquet table"):
        read_manifest(tmp_path / "manifest.parquet")


def _manifest(rows: int, **columns: object) -> dict[str, object]:
    texts = {"image": "a", "map": "a", "source_case": "a", "patient": "a", "view": "2CH", "phase": "ED", "split": "val"}
    once = {name: pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text]) for name, text in texts.items()}
    numbers = {name: np.ones(rows) for name in ("index", "spacing_row_mm", "spacing_column_mm")}
    return {**once, **numbers, **columns}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "packed", "reason"),
    [
        (
            {"patient": pa.DictionaryArray.from_arrays(np.zeros(600, np.int32), ["x" * 500_000])},
            "snappy",
            "bytes of text",
        ),
        (
            {"other": pa.ListArray.from_arrays(np.arange(601) * 120_000, np.zeros(72_000_000, "f2"))},
            "snappy",
            "promises",
        ),
        ({"other": pa.array([["a"]] * 600)}, "snappy", "lists of texts"),
        ({}, "zstd", "packed with ZSTD"),
    ],
)
def test_small_files_that_unpack_to_gigabytes_are_refused_before(
    tmp_path: Path, columns: dict[str, object], packed: str, reason: str
) -> None:
    path = tmp_path / "manifest.parquet"
    pq.write_table(pa.table(_manifest(600, **columns)), path, compression=packed)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(DataError, match=reason):
        read_manifest(path)


def test_tables_of_millions_of_rows_or_thousands_of_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("case\n" + "a\n" * 2_100_000)
    (tmp_path / "columns.csv").write_text("," * 1500 + "\n")
    for name in ("rows.csv", "columns.csv"):
        with pytest.raises(DataError, match=r"rows and [0-9]+ columns, expected at most"):
            read_cases(tmp_path / name)


def test_a_million_images_can_be_read_back() -> None:
    """What README promises: cases.csv, manifest and lists of so many, with the longest names that generate gives."""
    row = "patient0001_2CH_ED_aug99_seed1234_0999999,patient0001_2CH_ED_aug99_seed1234,patient0001_2CH_ED,patient0001,2CH,ED,train,0.4921875123456,0.6125123456789,256,256\n"
    assert len(row) * 1_000_000 < tables._MOST_BYTES
    case = row.partition(",")[0]
    folds = 5 * (len(case) + 10)  # splits_final.json names a case once a fold
    mixed = len(case) + 2 * 60 + 120  # dataset.json of a mixture: image and label by relative path
    assert max(folds, mixed) * 1_000_000 < LISTS_CASES
    assert tables.MOST_VALUES > 25 * 1_000_000


def test_images_of_a_real_validation_patient_are_not_mixed_in_for_training(home: Path) -> None:
    """The mixture could not be read: a patient would be in train and in val."""
    real = nnunet_raw.find(501)
    cases = real.cases()
    validating = cases.loc[cases["split"] == "val", "patient"].iloc[0]
    synthetic = nnunet_raw.RawDataset(Path("Dataset601_FOREIGN"))
    mix._refuse_validating(real, synthetic, cases[cases["split"] == "train"])
    with pytest.raises(DataError, match=f"Dataset601_FOREIGN: has training images of {validating}, .*--real"):
        mix._refuse_validating(real, synthetic, cases.assign(split="train"))
