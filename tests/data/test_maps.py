"""Condition maps: made again from their record, clipped to the sector, never from held-out patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.data_commands import make_maps
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.deformation import Transformation, apply, displacement, draw, min_jacobian
from echo_synth.data.maps import load_tissues, open_maps
from echo_synth.errors import DataError, LeakageError
from tests.analytic import disc


def _identity(**changes: float) -> Transformation:
    values = {"rotation_deg": 0.0, "shift_vertical": 0.0, "scale": 1.0, "shear_deg": 0.0} | changes
    return Transformation(**values, elastic=np.zeros((2, 10, 10), np.float32))


def _scene() -> np.ndarray:
    tissues = np.full((256, 256), 4, np.uint8)
    tissues[disc(256, (127.5, 127.5), 40)] = 2
    tissues[:, :20] = 0
    return tissues


def test_every_map_can_be_made_again(home: Path) -> None:
    folder = open_maps(home / "maps/Dataset501_PHANTOM")
    dataset = nnunet_raw.find(501)
    assert len(folder.index) == 32
    for row in folder.index.iloc[::5].to_dict("records"):
        source = load_tissues(dataset, row["source_case"], row["split"])
        assert np.array_equal(apply(source, Transformation.from_record(row)), folder.read(row["map"]))


def test_identity_changes_nothing() -> None:
    assert np.array_equal(apply(_scene(), _identity()), _scene())


def test_shift_and_scale_do_what_they_say() -> None:
    moved = apply(_scene(), _identity(shift_vertical=0.05))
    rows = np.nonzero(moved == 2)[0]
    assert rows.mean() == pytest.approx(127.5 + 0.05 * 256, abs=0.6)
    smaller = apply(_scene(), _identity(scale=0.8))
    assert (smaller == 2).sum() / (_scene() == 2).sum() == pytest.approx(0.64, rel=0.02)


def test_the_sector_stays_and_clips() -> None:
    for seed in range(5):
        changed = apply(_scene(), draw(np.random.default_rng(seed), specs.maps()))
        assert np.array_equal(changed > 0, _scene() > 0)


def test_draws_keep_to_their_ranges_and_do_not_fold() -> None:
    spec = specs.maps()
    for seed in range(50):
        t = draw(np.random.default_rng(seed), spec)
        assert abs(t.rotation_deg) <= spec.rotation_deg
        assert spec.scale[0] <= t.scale <= spec.scale[1]
        assert np.abs(t.elastic).max() <= spec.elastic_max_px
        assert np.abs(displacement(t.elastic)).max() <= np.abs(t.elastic).max() + 1e-9
        assert not t.elastic[:, 0].any()
        assert not t.elastic[:, :, -2].any()
        assert min_jacobian(displacement(t.elastic)) >= spec.elastic_min_jacobian


def test_held_out_patients_are_refused_by_name(home: Path) -> None:
    held = sorted(nnunet_raw.test_patients(nnunet_raw.find(501)))
    with pytest.raises(LeakageError, match=held[0]):
        make_maps(501, patients=held[0], out=home / "leak")
    assert not (home / "leak").exists()
    index = open_maps(home / "maps/Dataset501_PHANTOM").index
    assert not set(index["patient"]) & set(held)


def test_a_map_folder_with_a_held_out_patient_is_refused(home: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(home / "maps/Dataset501_PHANTOM", tmp_path / "maps")
    index = open_maps(tmp_path / "maps").index
    index.loc[0, "patient"] = sorted(nnunet_raw.test_patients(nnunet_raw.find(501)))[0]
    index.to_parquet(tmp_path / "maps/index.parquet")
    with pytest.raises(LeakageError, match="held-out"):
        open_maps(tmp_path / "maps")


def test_unknown_patients_are_named(home: Path) -> None:
    with pytest.raises(DataError, match="patient4711"):
        make_maps(501, patients="patient4711", out=home / "none")


def test_a_subset_of_patients_gets_the_same_maps(home: Path, tmp_path: Path) -> None:
    make_maps(501, repeats=1, patients="patient0002", out=tmp_path / "some", workers=1)
    whole, some = open_maps(home / "maps/Dataset501_PHANTOM"), open_maps(tmp_path / "some")
    for name in some.index["map"]:
        assert np.array_equal(whole.read(name), some.read(name))
