"""Volumes and ejection fraction: bodies with known volume, and CAMUS's own figures."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from echo_synth.data.nifti import read_image
from echo_synth.evaluation.patient_volumes import VentricleAxes, compare_volumes
from echo_synth.metrics.agreement import agreement
from echo_synth.metrics.volumes import DISCS, LongAxis, biplane_volumes, long_axis
from echo_synth.parallel import parallel_map
from echo_synth.types import CaseId


def _ventricle(
    length: float, radius: float, spacing: tuple[float, float], tilt: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Half an ellipse, base down, apex up, turned by `tilt` rad about the middle of its base; and a 6 mm wall without base."""
    rows, columns = (np.arange(int(130 / s)) * s for s in spacing)
    y, x = np.meshgrid(100 - rows, columns - 65, indexing="ij")  # up and right from the middle of the base, mm
    u, v = np.cos(tilt) * y + np.sin(tilt) * x, -np.sin(tilt) * y + np.cos(tilt) * x
    inside = (u >= 0) & ((u / length) ** 2 + (v / radius) ** 2 <= 1)
    outer = (u >= 0) & ((u / (length + 6)) ** 2 + (v / (radius + 6)) ** 2 <= 1)
    return inside, outer & ~inside


@pytest.mark.parametrize("spacing", [(0.3, 0.3), (0.6, 0.35)])
@pytest.mark.parametrize("tilt", [0.0, 0.3, -0.5])
def test_half_an_ellipsoid(spacing: tuple[float, float], tilt: float) -> None:
    axis = long_axis(*_ventricle(80, 22, spacing, tilt), spacing)
    assert axis.length == pytest.approx(80, rel=0.02)
    volumes = biplane_volumes(dict.fromkeys(product(("2CH", "4CH"), ("ED", "ES")), axis), "clinical")
    assert volumes.edv == pytest.approx(2 / 3 * np.pi * 22**2 * 80 / 1000, rel=0.02)
    assert volumes.ef == pytest.approx(0)


def test_a_stray_island_does_not_count() -> None:
    cavity, wall = _ventricle(80, 22, (0.5, 0.5))
    alone = long_axis(cavity, wall, (0.5, 0.5))
    cavity[3:9, 3:9] = True
    assert long_axis(cavity, wall, (0.5, 0.5)).length == alone.length


def test_the_two_conventions_differ_by_the_length() -> None:
    """ED 80 x 25, ES 60 x 20: with one height for both only the widths count."""
    ed, es = LongAxis(80, np.full(DISCS, 50.0)), LongAxis(60, np.full(DISCS, 40.0))
    axes = {(v, p): a for v in ("2CH", "4CH") for p, a in (("ED", ed), ("ES", es))}
    assert biplane_volumes(axes, "camus").ef == pytest.approx(100 * (1 - 40**2 / 50**2))
    assert biplane_volumes(axes, "clinical").ef == pytest.approx(100 * (1 - 40**2 * 60 / (50**2 * 80)))
    assert biplane_volumes(axes, "clinical").edv == pytest.approx(np.pi / 4 * 50**2 * 80 / 1000)


def test_an_empty_cavity_has_no_volume() -> None:
    empty = np.zeros((9, 9), bool)
    axis = long_axis(empty, empty, (1, 1))
    assert axis.length == 0
    assert np.isnan(biplane_volumes(dict.fromkeys(product(("2CH", "4CH"), ("ED", "ES")), axis), "camus").ef)


def _mask(spacing: tuple[float, float], atrium: bool = True) -> np.ndarray:
    """Labels (H, W) of a ventricle of 80 x 44 mm with its wall and, below it, half a disc of atrium."""
    cavity, wall = _ventricle(80, 22, spacing)
    labels = np.where(cavity, 1, np.where(wall, 2, 0))
    rows, columns = (np.arange(n) * s for n, s in zip(labels.shape, spacing, strict=True))
    y, x = np.meshgrid(100 - rows, columns - 65, indexing="ij")
    labels[(y < 0) & (y**2 + x**2 <= 22**2) & atrium] = 3
    return labels


def _axis(labels: np.ndarray, spacing: tuple[float, float]) -> LongAxis:
    return long_axis(labels == 1, labels == 2, spacing, labels == 3)


def _gap(labels: np.ndarray, spacing: tuple[float, float], at: tuple[float, float], width: float) -> np.ndarray:
    """The wall within width / 2 of a point (mm above the base, mm right of the axis) is gone."""
    rows, columns = (np.arange(n) * s for n, s in zip(labels.shape, spacing, strict=True))
    y, x = np.meshgrid(100 - rows - at[0], columns - 65 - at[1], indexing="ij")
    return np.where((labels == 2) & (np.hypot(y, x) <= width / 2), 0, labels)


def _blot(labels: np.ndarray, spacing: tuple[float, float], at: tuple[float, float], label: int) -> np.ndarray:
    """A disc of 3 mm of `label` around a point."""
    rows, columns = (np.arange(n) * s for n, s in zip(labels.shape, spacing, strict=True))
    y, x = np.meshgrid(100 - rows - at[0], columns - 65 - at[1], indexing="ij")
    return np.where(np.hypot(y, x) <= 1.5, label, labels)


def _worn(labels: np.ndarray, spacing: tuple[float, float], width: float) -> np.ndarray:
    """The wall within `width` of the cavity is gone: it stands off all round."""
    distance = ndimage.distance_transform_edt(labels != 1, sampling=spacing)
    return np.where((labels == 2) & (distance <= width), 0, labels)


_SPACING = (0.5, 0.4)
_APEX, _SIDE = (83.0, 0.0), (40.0, 22.0)
_HARM = {
    "apical gap of 1.5 mm": lambda m: _gap(m, _SPACING, _APEX, 7),  # the wall is 6 mm thick
    "apical gap of 20 mm": lambda m: _gap(m, _SPACING, _APEX, 20),
    "gap at the side": lambda m: _gap(m, _SPACING, _SIDE, 12),
    "gaps everywhere": lambda m: _gap(_gap(_gap(m, _SPACING, _APEX, 9), _SPACING, _SIDE, 9), _SPACING, (60, -17), 9),
    "hole": lambda m: _blot(m, _SPACING, (40, 0), 0),
    "atrium inside": lambda m: _blot(m, _SPACING, (60, 5), 3),
    "wall inside": lambda m: _blot(m, _SPACING, (20, -8), 2),
    "island of cavity": lambda m: _blot(m, _SPACING, (40, 50), 1),
    "island of atrium at the apex": lambda m: _blot(_gap(m, _SPACING, _APEX, 9), _SPACING, (84, 0), 3),
    "wall on the valve": lambda m: _blot(m, _SPACING, (-2.5, 4), 2),
    "worn wall": lambda m: _worn(m, _SPACING, 1.5),
    "wall a little off and gaps": lambda m: _gap(_worn(m, _SPACING, 1.0), _SPACING, _APEX, 9),
}


@pytest.mark.parametrize("atrium", [True, False])
@pytest.mark.parametrize("harm", _HARM)
def test_harm_to_a_mask_leaves_its_axis(harm: str, atrium: bool) -> None:
    """The valve stays where it was, with and without a mask of the atrium."""
    labels = _mask(_SPACING, atrium)
    axis = _axis(_HARM[harm](labels), _SPACING)
    assert axis.length == pytest.approx(80, rel=0.02)
    diameters = _axis(labels, _SPACING).diameters
    assert (axis.diameters**2).sum() == pytest.approx((diameters**2).sum(), rel=0.02)


def test_the_atrium_may_stand_off_or_be_closed_off() -> None:
    labels = _mask(_SPACING)
    distance = ndimage.distance_transform_edt(labels != 1, sampling=_SPACING)
    for between in (0, 2):
        apart = np.where((labels == 3) & (distance <= 2), between, labels)
        assert _axis(apart, _SPACING).length == pytest.approx(80, rel=0.02)


def test_without_a_wall_the_base_is_the_deeper_end() -> None:
    labels = _mask(_SPACING, atrium=False)
    assert _axis(np.where(labels == 1, 1, 0), _SPACING).length == pytest.approx(np.hypot(80, 3), rel=0.05)
    one = np.zeros((5, 5), int)
    one[2, 2] = 1
    assert _axis(one, _SPACING).length == 0


def _wall_gaps(labels: np.ndarray, spacing: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Four slits of 3 mm through the wall, in random directions from the middle of the cavity."""
    middle = np.argwhere(labels == 1).mean(0)
    offset = (np.stack(np.indices(labels.shape), -1) - middle) * spacing
    for angle in rng.uniform(-np.pi, np.pi, 4):
        along = np.array([np.cos(angle), np.sin(angle)])
        slit = np.abs(offset @ np.array([-along[1], along[0]])) <= 1.5
        labels = np.where((labels == 2) & slit & (offset @ along > 0), 0, labels)
    return labels


def _axes_of(folder: Path) -> list[LongAxis]:
    pictures = [
        read_image(folder / f"{folder.name}_{v}_{p}_gt.nii.gz") for v, p in product(("2CH", "4CH"), ("ED", "ES"))
    ]
    return [_axis(m.pixels, m.spacing) for m in pictures]


@pytest.mark.slow
def test_camus_ejection_fractions(camus: Path) -> None:
    """All 450 patients: the reference masks give the cfg's EF in CAMUS's convention; the clinical one reads higher."""
    stated = pd.read_csv(camus / "patients_info_2CH.csv").set_index("Patient")["EF"]
    folders = sorted((camus / "database_nifti").glob("patient*"))
    assert len(folders) == 450
    keys = list(product(("2CH", "4CH"), ("ED", "ES")))
    axes = [dict(zip(keys, found, strict=True)) for found in parallel_map(_axes_of, folders)]
    truth = stated[[f.name for f in folders]].to_numpy(float)
    camus_way = agreement(np.array([biplane_volumes(a, "camus").ef for a in axes]), truth)
    assert camus_way.mae <= 1.5
    assert abs(camus_way.bias) <= 0.5
    assert camus_way.r >= 0.97
    clinical = agreement(np.array([biplane_volumes(a, "clinical").ef for a in axes]), truth)
    assert 5 < clinical.bias < 11


@pytest.mark.slow
def test_real_masks_with_harm_keep_their_ejection_fraction(camus: Path) -> None:
    """15 patients, 60 masks: gaps in the wall, walls worn off by 1.5 mm, holes: within a point of the unharmed masks' EF."""
    rng, keys = np.random.default_rng(0), list(product(("2CH", "4CH"), ("ED", "ES")))
    for folder in sorted((camus / "database_nifti").glob("patient*"))[::30]:
        masks = {(v, p): read_image(folder / f"{folder.name}_{v}_{p}_gt.nii.gz") for v, p in keys}
        whole = biplane_volumes({k: _axis(m.pixels, m.spacing) for k, m in masks.items()}, "camus").ef
        for harm in (lambda m: _wall_gaps(m.pixels, m.spacing, rng), lambda m: _worn(m.pixels, m.spacing, 1.5)):
            harmed = {k: _axis(harm(m), m.spacing) for k, m in masks.items()}
            assert biplane_volumes(harmed, "camus").ef == pytest.approx(whole, abs=1), folder.name


def test_agreement_by_hand() -> None:
    found = agreement(np.array([1.0, 2.0, 4.0, np.nan]), np.array([1.0, 1.0, 2.0, 5.0]))
    assert (found.n, found.bias, found.mae) == (3, 1.0, 1.0)
    assert found.loa == pytest.approx((1 - 1.96, 1 + 1.96))
    assert found.r == pytest.approx(np.corrcoef([1, 2, 4], [1, 1, 2])[0, 1])
    assert np.isnan(agreement(np.array([np.nan]), np.array([1.0])).r)


def test_patients_with_several_images_of_a_phase_have_no_volume() -> None:
    """Two beats of a patient, the second with its phases the wrong way round: which belong together is not known."""
    ed, es = LongAxis(80, np.full(DISCS, 50.0)), LongAxis(60, np.full(DISCS, 40.0))

    def beat(patient: str, first: LongAxis, second: LongAxis) -> list[VentricleAxes]:
        phases = (("ED", first), ("ES", second))
        return [VentricleAxes(CaseId(patient, v, p), a, (a,)) for v in ("2CH", "4CH") for p, a in phases]

    table = compare_volumes([*beat("p1", ed, es), *beat("p2", ed, es), *beat("p2", es, ed)], None)
    assert set(table["patient"]) == {"p1"}
    assert (table["ef_percent"] > 0).all()
