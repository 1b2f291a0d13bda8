"""Condition maps: made again from their record, clipped to the sector, never from held-out patients."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cli.data_commands import make_maps
from echo_synth import specs
from echo_synth.data import nnunet_raw, splits
from echo_synth.data.deformation import Transformation, apply, displacement, draw, min_jacobian, stretch
from echo_synth.data.heart_shape import heart_shape
from echo_synth.data.maps import load_whole, open_maps, read_map, write_map
from echo_synth.data.plausible import Plausible
from echo_synth.data.tissues import anatomy as labels_of
from echo_synth.data.tissues import visible, whole_map
from echo_synth.errors import DataError, LeakageError, SpecError
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
        source = visible(load_whole(dataset, row["source_case"], row["split"]))
        assert np.array_equal(visible(apply(source, Transformation.from_record(row))), folder.read_whole(row["map"]))


def test_a_wall_that_the_sector_cuts_is_whole_when_it_moves_in(tmp_path: Path) -> None:
    labels = np.zeros((256, 256), np.uint8)
    labels[disc(256, (127.5, 30.0), 25)] = 2
    sector = np.arange(256)[None] >= np.full((256, 1), 30)
    inwards = _identity(scale=0.8)  # about the centre: 20 px to the right
    whole = whole_map(labels, sector)
    moved = apply(whole, inwards)
    assert 0.97 < (labels_of(moved) == 2).sum() / (0.64 * (labels == 2).sum()) < 1.03
    assert (visible(moved) == 2).sum() / (labels_of(moved) == 2).sum() > 0.97
    assert (apply(visible(whole), inwards) == 2).sum() < 0.6 * (
        visible(moved) == 2
    ).sum()  # the paper's way: half a wall
    assert np.array_equal(apply(whole, _identity()), whole)
    write_map(tmp_path / "m.png", whole)
    assert np.array_equal(read_map(tmp_path / "m.png"), whole)
    assert np.array_equal(labels_of(whole), labels)


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


@pytest.fixture(scope="module")
def anatomy(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of the phantom by the recipe that keeps anatomy."""
    folder = tmp_path_factory.mktemp("anatomy") / "maps"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSYNTH_HOME", str(converted))
        make_maps(501, repeats=2, recipe="anatomy", out=folder, workers=1)
    return folder


@pytest.mark.slow
def test_both_phases_of_a_view_move_as_one(home: Path, anatomy: Path) -> None:
    maps, dataset = open_maps(anatomy), nnunet_raw.find(501)
    moves = ["rotation_deg", "shift_vertical", "scale", "shear_deg"]
    for _, pair in maps.index.groupby(["patient", "view", "repeat"]):
        assert sorted(pair["phase"]) == ["ED", "ES"]
        assert (pair[moves].nunique() == 1).all()
        assert len(set(map(tuple, pair["elastic"]))) == 1
    different = maps.index.groupby(["patient", "view", "repeat"])["scale"].first()
    assert different.nunique() == len(different)
    for row in maps.index.iloc[::5].to_dict("records"):
        source = load_whole(dataset, row["source_case"], row["split"])
        assert np.array_equal(apply(source, Transformation.from_record(row)), maps.read_whole(row["map"]))


@pytest.mark.slow
def test_anatomy_keeps_hearts_and_their_ejection_fraction(home: Path, anatomy: Path) -> None:
    maps, dataset, bounds = open_maps(anatomy), nnunet_raw.find(501), specs.maps("anatomy").anatomy
    assert bounds is not None
    for row in maps.index.to_dict("records"):
        before = heart_shape(visible(load_whole(dataset, row["source_case"], row["split"])))
        map_ = maps.read(row["map"])
        after, heart = heart_shape(map_), np.isin(map_, (1, 2, 3))
        assert stretch(Transformation.from_record(row), heart) <= bounds.stretch
        assert after.components == before.components
        assert after.solidity >= bounds.solidity * before.solidity
        assert after.wall >= bounds.wall * before.wall
        assert abs(after.valve_deg - before.valve_deg) <= bounds.valve_deg
        assert after.atrium >= bounds.atrium * before.atrium
    assert (maps.index["ef"] - maps.index["source_ef"]).abs().max() < 3
    stated = dataset.cases().groupby("patient")["ef"].first()
    measured = maps.index.groupby("patient")["source_ef"].first()
    assert list(measured.sort_values().index) == list(stated[measured.index].sort_values().index)
    assert (
        (stated[measured.index] - measured).between(0, 15).all()
    )  # CAMUS's convention reads less than the clinical one


def test_repeats_and_their_sum_are_kept(home: Path, anatomy: Path) -> None:
    index = open_maps(anatomy).index
    assert len(index) == 32
    assert (index.groupby("source_case").size().groupby(lambda c: c[:11]).nunique() == 1).all()


def test_what_is_not_asked_for_is_not_recorded(home: Path) -> None:
    assert "ef" not in open_maps(home / "maps/Dataset501_PHANTOM").index


def test_a_recipe_of_ones_own(home: Path, tmp_path: Path) -> None:
    text = (specs.root() / "presets/maps/anatomy.yaml").read_text(encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("share_deformation: true", "share_deformation: false"), encoding="utf-8")
    make_maps(501, repeats=1, recipe=str(own), patients="patient0002", out=tmp_path / "maps", workers=1)
    assert open_maps(tmp_path / "maps").index["scale"].nunique() == 4
    with pytest.raises(SpecError, match=r"--recipe nowhere: expected anatomy, paper"):
        specs.maps("nowhere")
    own.write_text(f"{text}shear: 3\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"own.yaml: unknown key 'shear'; did you mean 'shear_deg'"):
        specs.maps(str(own))


def test_balance_without_known_fractions_is_refused(home: Path, tmp_path: Path) -> None:
    import shutil

    raw = home / "nnunet/raw"
    shutil.copytree(raw / "Dataset501_PHANTOM", raw / "Dataset577_NOEF")
    cases = nnunet_raw.find(577).cases().drop(columns="ef")
    cases.to_csv(raw / "Dataset577_NOEF/cases.csv", index=False)
    try:
        with pytest.raises(DataError, match=r"states no patient's ef.*--recipe paper"):
            make_maps(577, recipe="anatomy", out=tmp_path / "maps", workers=1)
    finally:
        shutil.rmtree(raw / "Dataset577_NOEF")


def test_a_search_without_an_answer_ends_where_it_began() -> None:
    spec = specs.maps("anatomy")
    assert np.array_equal(apply(_scene(), draw(np.random.default_rng(0), spec, lambda _: False)), _scene())


def test_log_uniform_scales_are_centred_on_one() -> None:
    spec = specs.maps("anatomy").model_copy(update={"elastic_max_px": 0.0})
    logs = [np.log(draw(np.random.default_rng(seed), spec).scale) for seed in range(300)]
    assert np.mean(logs) == pytest.approx(0, abs=0.01)
    assert np.exp(np.max(np.abs(logs))) <= 1.112


def test_stretch_is_the_largest_factor() -> None:
    everywhere = np.ones((256, 256), bool)
    assert stretch(_identity(rotation_deg=30.0), everywhere) == pytest.approx(1, abs=1e-6)
    assert stretch(_identity(scale=1.2), everywhere) == pytest.approx(1.2)
    assert stretch(_identity(scale=0.8), everywhere) == pytest.approx(1.25)
    assert stretch(_identity(scale=2.0), ~everywhere) == 1


def _heart() -> np.ndarray:
    """A cavity in its wall above an atrium."""
    rows, columns = np.indices((256, 256))
    inside = ((rows - 120) / 60) ** 2 + ((columns - 127.5) / 30) ** 2
    tissues = np.full((256, 256), 4, np.uint8)
    tissues[(inside < 1.6) & (rows < 150)] = 2
    tissues[(inside < 1) & (rows < 150)] = 1
    tissues[(rows >= 150) & (rows < 190) & (np.abs(columns - 127.5) < 25)] = 3
    tissues[:, :60] = 0
    return tissues


def test_shapes_are_measured_as_they_are() -> None:
    shape = heart_shape(_heart())
    assert shape.components == (1, 1, 1)
    assert shape.solidity > 0.97
    assert shape.valve_deg == pytest.approx(90, abs=4)  # the farthest pixel is a little off the middle
    assert shape.wall == pytest.approx(5.5, abs=1)
    pinched = _heart()
    pinched[90:110, 105:150] = np.where(pinched[90:110, 105:150] == 1, 2, pinched[90:110, 105:150])
    assert heart_shape(pinched).solidity < shape.solidity - 0.05
    assert np.isnan(heart_shape(np.full((256, 256), 4, np.uint8)).wall)


def test_each_bound_refuses_what_it_is_for() -> None:
    bounds = specs.maps("anatomy").anatomy
    assert bounds is not None
    whole, cut = _heart(), _heart()
    cut[:, :118] = 0  # half of the cavity is outside the sector
    allowed = Plausible([whole], bounds)
    assert allowed(_identity())
    assert allowed(_identity(scale=1.1))
    assert not allowed(_identity(scale=1.3))
    assert not allowed(_identity(shear_deg=20.0))
    assert not allowed(_identity(shift_vertical=-0.4))  # out of the sector
    assert not Plausible([whole, cut], bounds)(_identity(rotation_deg=30.0))


@pytest.mark.slow
def test_a_heart_that_fills_its_sector_does_not_shrink_on_average() -> None:
    """Enlarged, its cavity would leave the sector; a recipe that refuses no more than that keeps the draws that shrink it."""
    tight = _heart()
    tight[:55] = 0  # the sector ends just above the cavity
    spec = specs.maps("anatomy").model_copy(update={"elastic_max_px": 0.0, "shift_vertical": 0.0})
    assert spec.anatomy is not None
    assert spec.anatomy.both_ways
    means = {}
    for both_ways in (False, True):
        allowed = Plausible([tight], spec.anatomy.model_copy(update={"both_ways": both_ways}))
        scales = [draw(np.random.default_rng(seed), spec, allowed).scale for seed in range(40)]
        means[both_ways] = np.mean(np.log(scales))
    assert means[False] < -0.02
    assert abs(means[True]) < 0.01


def test_an_atrium_is_not_drawn_out_into_a_tail() -> None:
    bounds = specs.maps("anatomy").anatomy
    assert bounds is not None
    shape, hook = _heart(), _heart()
    rows, columns = np.indices(hook.shape)
    hook[(hook == 3) & (rows >= 160) & (columns > 112)] = 4
    assert heart_shape(hook).atrium < bounds.atrium * heart_shape(shape).atrium
    assert heart_shape(shape).atrium == pytest.approx(1, abs=0.01)  # a rectangle
    assert np.isnan(heart_shape(np.full((256, 256), 4, np.uint8)).atrium)


def test_the_bundled_people_are_no_patients_of_a_dataset() -> None:
    """They are simulated: the patients of CAMUS have other names, so neither a leak is seen that is none, nor one missed."""
    bundled = open_maps(specs.root() / "bundled" / "maps")
    official = {patient for patients in splits.official_split().values() for patient in patients}
    assert not set(bundled.index["patient"]) & official
    assert not any(re.fullmatch(specs.camus().patient_pattern, patient) for patient in bundled.index["patient"])
