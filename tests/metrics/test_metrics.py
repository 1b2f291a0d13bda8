"""Overlap, surface distances and classification against known answers, brute force and scipy's distance transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from echo_synth.data.nifti import read_image
from echo_synth.metrics import classification, dice, largest_component, structure_mask, surface_distances
from tests.analytic import disc, square


def test_dice_of_offset_squares() -> None:
    a, b = square(40, 5, 5, 10), square(40, 5, 10, 10)
    assert dice(a, b) == pytest.approx(2 * 50 / 200)
    assert dice(a, a) == 1
    assert dice(a, np.zeros_like(a)) == 0
    assert np.isnan(dice(np.zeros_like(a), np.zeros_like(a)))


def test_distances_of_offset_squares_in_anisotropic_pixels() -> None:
    a, b = square(40, 5, 5, 10), square(40, 5, 9, 10)
    result = surface_distances(a, b, (2.0, 0.5))
    assert result.hd == pytest.approx(4 * 0.5)
    a, b = square(40, 5, 5, 10), square(40, 8, 5, 10)
    assert surface_distances(a, b, (2.0, 0.5)).hd == pytest.approx(3 * 2.0)


def test_concentric_discs() -> None:
    a, b = disc(200, (100, 100), 50), disc(200, (100, 100), 60)
    result = surface_distances(a, b)
    assert result.hd == pytest.approx(10, abs=0.8)
    assert result.assd == pytest.approx(10, abs=0.3)


def test_one_pixel_and_empty() -> None:
    a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    a[1, 1] = b[4, 5] = True
    assert surface_distances(a, b).hd == pytest.approx(5)
    assert np.isnan(surface_distances(a, np.zeros_like(a)).hd)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Foreground pixels with a 4-neighbour outside; the picture's border is outside."""
    p = np.pad(mask, 1)
    return mask & ~(p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:])


def _by_distance_transforms(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float, float]:
    """Hausdorff, HD95 and ASSD written out: an implementation of its own."""
    there = ndimage.distance_transform_edt(~_outline(b), sampling=spacing)[_outline(a)]
    back = ndimage.distance_transform_edt(~_outline(a), sampling=spacing)[_outline(b)]
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return max(there.max(), back.max()), hd95, np.concatenate([there, back]).mean()


def _blobs(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Two random masks (48, 48) of several components, and a spacing."""
    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.standard_normal((48, 48)), 5) > 0.02 for _ in range(2))
    return a, b, (0.7, 0.4)


@pytest.mark.parametrize("seed", range(6))
def test_against_brute_force(seed: int) -> None:
    a, b, spacing = _blobs(seed)
    ours = surface_distances(a, b, spacing)
    pa, pb = (np.argwhere(_outline(m)) * spacing for m in (a, b))
    d = cdist(pa, pb)
    there, back = d.min(1), d.min(0)
    assert ours.hd == pytest.approx(max(there.max(), back.max()), abs=1e-6)
    assert ours.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-6)
    assert ours.assd == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_definitions_are_monais(seed: int) -> None:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    a, b, spacing = _blobs(seed)
    ours = surface_distances(a, b, spacing)
    pair = [torch.from_numpy(m.astype(np.float32))[None, None] for m in (a, b)]
    for percentile, value in ((None, ours.hd), (95, ours.hd95)):
        theirs = compute_hausdorff_distance(
            *pair, include_background=True, percentile=percentile, spacing=list(spacing)
        )
        assert value == pytest.approx(float(theirs), abs=1e-4)
    theirs = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=list(spacing))
    assert ours.assd == pytest.approx(float(theirs), abs=1e-4)


def _perturbed(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels moved, with a ragged outline and sometimes a stray island."""
    moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
    ragged = np.where(ndimage.gaussian_filter(rng.standard_normal(mask.shape), 4) > 0.1, moved, mask)
    if rng.random() < 0.3:
        r, c = rng.integers(5, np.array(mask.shape) - 5)
        ragged[r : r + 3, c : c + 3] = rng.integers(0, 4)
    return ragged


@pytest.mark.slow
def test_200_real_masks_against_distance_transforms(camus: Path) -> None:
    files = sorted((camus / "database_nifti").glob("patient*/*_gt.nii.gz"))[::9]
    assert len(files) == 200
    rng = np.random.default_rng(0)
    for file in files:
        picture = read_image(file)
        truth, found = picture.pixels, _perturbed(picture.pixels, rng)
        for values in ([1], [1, 2], [3]):
            a, b = structure_mask(found, values), structure_mask(truth, values)
            assert dice(a, b) == pytest.approx(2 * np.sum(a * b) / (np.sum(a) + np.sum(b)), abs=1e-9)
            ours = surface_distances(a, b, picture.spacing)
            assert (ours.hd, ours.hd95, ours.assd) == pytest.approx(
                _by_distance_transforms(a, b, picture.spacing), abs=1e-6
            )


def test_masks_that_touch_the_border() -> None:
    a, b = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    a[:8], b[:, :5] = True, True
    ours = surface_distances(a, b, (0.5, 1.5))
    assert (ours.hd, ours.hd95, ours.assd) == pytest.approx(_by_distance_transforms(a, b, (0.5, 1.5)), abs=1e-6)


def test_structures_and_components() -> None:
    labels = np.array([[0, 1, 2], [3, 1, 2], [3, 0, 0]])
    assert structure_mask(labels, [1, 2]).sum() == 4
    mask = square(20, 1, 1, 5) | square(20, 12, 12, 3)
    assert np.array_equal(largest_component(mask), square(20, 1, 1, 5))


def test_auroc_against_scikit_learn() -> None:
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(0)
    truth, probability = rng.integers(0, 2, 200), np.round(rng.random(200), 2)
    assert classification.auroc(truth, probability) == pytest.approx(roc_auc_score(truth, probability))
    assert classification.f1(truth, probability) == pytest.approx(f1_score(truth, probability >= 0.5, average="macro"))
    assert classification.accuracy(np.array([0, 1]), np.array([0.4, 0.2])) == 0.5
    assert classification.brier(np.array([0, 1]), np.array([0.0, 0.5])) == 0.125


def test_calibration_and_confusion_by_hand() -> None:
    truth, probability = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.6, 0.9, 1.0])
    claimed, observed, counts = classification.calibration(truth, probability, 10)
    assert counts.tolist() == [0, 1, 0, 0, 0, 0, 2, 0, 0, 2]
    assert (claimed[6], observed[6], claimed[9], observed[9]) == pytest.approx((0.6, 0.5, 0.95, 1.0))
    assert classification.calibration_error(truth, probability) == pytest.approx((0.1 + 2 * 0.1 + 2 * 0.05) / 5)
    assert classification.confusion(truth, probability).tolist() == [[1, 1], [0, 3]]
