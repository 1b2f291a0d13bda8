"""Prepared arrays: made once, made again when any image or label changed or the arrays are damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from echo_synth.data.nifti import Image2D, read_image, write_image
from echo_synth.data.nnunet_raw import RawDataset, find
from echo_synth.data.prepared import prepare
from echo_synth.errors import DataError


@pytest.fixture
def dataset(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """A copy of the converted phantom that a test may change."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    shutil.copytree(converted / "nnunet" / "raw", tmp_path / "nnunet" / "raw")
    return find(501)


def test_a_label_that_is_replaced_is_noticed(dataset: RawDataset) -> None:
    before = prepare(dataset)
    assert prepare(dataset).fingerprint == before.fingerprint
    row = before.cases.iloc[0]
    path = dataset.label_path(row["case"], row["split"])
    label = read_image(path)
    moved: Image2D = Image2D(np.roll(label.pixels, 3, 0).astype(np.uint8), label.spacing)
    write_image(path, moved.pixels, moved.spacing)
    after = prepare(dataset)
    assert after.fingerprint != before.fingerprint
    assert not np.array_equal(after.tissues[0], before.tissues[0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prepared.json", b"[]"),
        ("prepared.json", b"{}"),
        ("images.npy", b"foreign"),
        ("tissues.npy", b""),
        ("cases.csv", b"a,b\n1,2\n"),
    ],
)
def test_a_damaged_cache_is_made_again(dataset: RawDataset, tmp_path: Path, name: str, content: bytes) -> None:
    before = prepare(dataset)
    file = tmp_path / "prepared" / f"{dataset.name}_256" / name
    file.unlink()  # what is mapped stays
    file.write_bytes(content)
    after = prepare(dataset)
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.images, before.images)


def test_a_missing_image_is_named(dataset: RawDataset) -> None:
    row = dataset.cases().query("split == 'train'").iloc[0]
    dataset.image_path(row["case"], row["split"]).unlink()
    with pytest.raises(DataError, match=f"{row['case']}.*cannot be read"):
        prepare(dataset)
