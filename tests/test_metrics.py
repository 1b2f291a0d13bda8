"""Metrics against known answers, scipy written out, and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from echo_synth.metrics import bootstrap, classification, dice, largest_component, structure_mask, surface_distances
from echo_synth.metrics.surface import outline
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


@pytest.mark.parametrize("seed", range(6))
def test_against_brute_force_and_monai(seed: int) -> None:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.standard_normal((48, 48)), 5) > 0.02 for _ in range(2))
    spacing = (0.7, 0.4)
    ours = surface_distances(a, b, spacing)
    pa, pb = (np.argwhere(outline(m)) * spacing for m in (a, b))
    d = cdist(pa, pb)
    there, back = d.min(1), d.min(0)
    assert ours.hd == pytest.approx(max(there.max(), back.max()), abs=1e-9)
    assert ours.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-9)
    assert ours.assd == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-9)
    ta, tb = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (a, b))
    theirs = compute_hausdorff_distance(ta, tb, include_background=True, spacing=list(spacing))
    assert ours.hd == pytest.approx(float(theirs), abs=1e-4)
    asd = compute_average_surface_distance(ta, tb, include_background=True, symmetric=True, spacing=list(spacing))
    assert ours.assd == pytest.approx(float(asd), abs=1e-4)


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


def _patients(rng: np.random.Generator, n: int = 50, per: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Images that share most of their variance within a patient."""
    person = rng.normal(0, 1, n)
    values = person[:, None] + rng.normal(0, 0.3, (n, per))
    return values.ravel(), np.repeat([f"p{i}" for i in range(n)], per)


def test_patient_intervals_cover_and_image_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    trials, covered, naive = 400, 0, 0
    for trial in range(trials):
        values, patients = _patients(rng)
        low, high = bootstrap.patient_interval(values, patients, 400, trial)
        covered += low <= 0 <= high
        low, high = bootstrap.patient_interval(values, np.arange(len(values)).astype(str), 400, trial)
        naive += low <= 0 <= high
    assert 0.90 <= covered / trials <= 0.98  # binomial standard error 1.1 %
    assert naive / trials < 0.80


def test_bootstrap_is_seeded_and_leaves_nan_out() -> None:
    values, patients = _patients(np.random.default_rng(1))
    assert bootstrap.patient_interval(values, patients, 100, 3) == bootstrap.patient_interval(values, patients, 100, 3)
    assert bootstrap.patient_interval(values, patients, 100, 3) != bootstrap.patient_interval(values, patients, 100, 4)
    with_gap = np.append(values, np.nan)
    assert bootstrap.subset_bootstrap(with_gap, 100, 0) == bootstrap.subset_bootstrap(values, 100, 0)


def test_subset_bootstrap_has_the_known_spread() -> None:
    """Without replacement the variance of a subset's mean is s²/m · (1 − m/n)."""
    values = np.random.default_rng(2).normal(size=200)
    mean, std = bootstrap.subset_bootstrap(values, 20000, 0)
    assert mean == pytest.approx(values.mean(), abs=1e-3)
    assert std == pytest.approx(values.std(ddof=1) / 160**0.5 * 0.2**0.5, rel=0.03)
