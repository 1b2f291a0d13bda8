"""The phantom's physics and anatomy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from echo_synth.data.tissues import sector_mask
from echo_synth.phantom import dataset
from echo_synth.phantom.anatomy import contract, draw_heart, volume_ml
from echo_synth.phantom.bmode import Probe, lateral_width_mm, polar_grid, scan_convert, speckle
from echo_synth.phantom.dataset import phantom_case, split_patients
from echo_synth.types import PHASES, VIEWS
from tests.analytic import count_holes_and_components

PROBE = Probe()


def _homogeneous(seed: int = 0) -> np.ndarray:
    ranges, angles = polar_grid(150, 0.7)
    return speckle(np.ones((512, 176)), ranges, angles, PROBE, np.random.default_rng(seed))


def test_the_envelope_of_homogeneous_tissue_is_rayleigh() -> None:
    # Every 8th range and 24th beam: farther apart than the resolution cell, so nearly independent.
    envelope = np.concatenate([np.abs(_homogeneous(s))[60:500:8, ::24].ravel() for s in range(10)])
    assert envelope.mean() / envelope.std() == pytest.approx(1.91, abs=0.05)  # the Rayleigh signal-to-noise ratio
    scale = np.sqrt((envelope**2).mean() / 2)
    assert stats.kstest(envelope, stats.rayleigh(scale=scale).cdf).pvalue > 0.01


def test_the_beam_is_narrowest_at_its_focus() -> None:
    ranges, _ = polar_grid(150, 0.7)
    width = lateral_width_mm(ranges, PROBE)
    assert ranges[width.argmin()] == pytest.approx(PROBE.focus_mm, abs=1)


def test_the_speckle_widens_away_from_the_focus() -> None:
    """Lateral autocorrelation length, in mm, at the focus and beyond it."""
    ranges, angles = polar_grid(150, 0.7)
    lengths = {}
    for depth in (80.0, 145.0):
        row = np.abs(ranges - depth).argmin()
        lines = np.concatenate([_homogeneous(s)[row - 6 : row + 7 : 6] for s in range(40)])
        c1 = np.abs(np.mean(lines[:, 1:] * lines[:, :-1].conj())) / np.mean(np.abs(lines) ** 2)
        step = ranges[row] * (angles[1] - angles[0])
        lengths[depth] = step / np.sqrt(-2 * np.log(c1))  # Gaussian correlation
    expected = {d: 2**0.5 * np.interp(d, ranges, lateral_width_mm(ranges, PROBE)) for d in lengths}
    for depth, length in lengths.items():
        assert length == pytest.approx(expected[depth], rel=0.15)


def test_scan_conversion_puts_ranges_where_they_belong() -> None:
    ranges, _ = polar_grid(100, 0.6)
    polar = np.repeat((np.abs(ranges - 60) < 1).astype(np.float32)[:, None], 176, axis=1) * 200
    image, inside = scan_convert(polar, 100, 0.6, 0.5, (201, 241))
    rows, columns = np.nonzero(image > 100)
    radius = np.hypot((rows + 0.5) * 0.5, (columns + 0.5 - 120.5) * 0.5)
    assert radius.mean() == pytest.approx(60, abs=0.3)
    assert not image[~inside].any()
    assert (image[inside] >= 1).all()


def test_the_drawn_ejection_fraction_is_that_of_the_volumes() -> None:
    for seed in range(30):
        heart = draw_heart(np.random.default_rng(seed))
        assert 1 - volume_ml(contract(heart)) / volume_ml(heart) == pytest.approx(heart.ef, abs=1e-6)
        assert 40 < volume_ml(heart) < 320


@pytest.mark.parametrize("number", [1, 2, 3])
def test_cases_look_like_camus(number: int) -> None:
    for view in ("2CH", "4CH"):
        sizes = {}
        for phase in ("ED", "ES"):
            image, mask, _, _ = phantom_case(0, number, view, phase)
            assert set(np.unique(mask)) == {0, 1, 2, 3}
            assert image.dtype == np.float32
            sector = sector_mask(image)
            assert count_holes_and_components(sector) == (0, 1)
            assert not (mask.astype(bool) & ~sector).any()
            for label in (1, 3):
                assert ndimage.label(mask == label)[1] == 1
            grey = {label: image[(mask == label)].mean() for label in (1, 2)}
            assert grey[1] < grey[2]  # blood is darker than muscle
            sizes[phase] = (mask == 1).sum()
        assert sizes["ES"] < sizes["ED"]


def test_a_case_depends_on_its_own_numbers_only() -> None:
    a, b = phantom_case(1, 7, "4CH", "ES"), phantom_case(1, 7, "4CH", "ES")
    assert np.array_equal(a[0], b[0])
    assert not np.array_equal(a[0], phantom_case(2, 7, "4CH", "ES")[0][: a[0].shape[0], : a[0].shape[1]])


def test_heart_pose_and_grain_are_drawn_from_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one stream, hearts of low ejection fraction would all lie near the probe in one view."""
    streams: list[int] = []

    def noted(module: Any, name: str, place: int) -> None:
        original = getattr(module, name)

        def call(*given: Any) -> Any:
            streams.append(given[place].bit_generator.state["state"]["state"])
            return original(*given)

        monkeypatch.setattr(module, name, call)

    noted(dataset, "draw_heart", 0)
    noted(dataset, "draw_pose", 0)
    noted(dataset, "render", 5)
    for view, phase in itertools.product(VIEWS, PHASES):
        phantom_case(0, 1, view, phase)
    hearts, poses, grains = (streams[k::3] for k in range(3))
    assert (len(set(hearts)), len(set(poses)), len(set(grains))) == (1, 2, 4)
    assert len(set(streams)) == 7


def test_splits_hold_everyone_once() -> None:
    for count in (1, 2, 3, 10, 157):
        split = split_patients(count)
        assert sorted(p for listed in split.values() for p in listed) == [f"patient{i + 1:04d}" for i in range(count)]
        assert split["train"]
