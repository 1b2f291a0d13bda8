"""Volumes and ejection fraction: bodies with known volume, and CAMUS's own figures."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echo_synth.data.nifti import read_image
from echo_synth.metrics.agreement import agreement
from echo_synth.metrics.volumes import DISCS, LongAxis, biplane_volumes, long_axis
from echo_synth.parallel import parallel_map


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


def _axes_of(folder: Path) -> list[LongAxis]:
    pictures = [
        read_image(folder / f"{folder.name}_{v}_{p}_gt.nii.gz") for v, p in product(("2CH", "4CH"), ("ED", "ES"))
    ]
    return [long_axis(m.pixels == 1, m.pixels == 2, m.spacing) for m in pictures]


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


def test_agreement_by_hand() -> None:
    found = agreement(np.array([1.0, 2.0, 4.0, np.nan]), np.array([1.0, 1.0, 2.0, 5.0]))
    assert (found.n, found.bias, found.mae) == (3, 1.0, 1.0)
    assert found.loa == pytest.approx((1 - 1.96, 1 + 1.96))
    assert found.r == pytest.approx(np.corrcoef([1, 2, 4], [1, 1, 2])[0, 1])
    assert np.isnan(agreement(np.array([np.nan]), np.array([1.0])).r)
