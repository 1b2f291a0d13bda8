"""Feature distances, texture and privacy against closed forms, simulated speckle and planted copies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, ndimage, stats

from echo_synth.metrics import frechet, privacy
from echo_synth.metrics.speckle import half_lag, masked_autocorrelation, speckle


def test_frechet_distance_of_gaussians() -> None:
    """For N(μ, s²) and N(ν, t²) it is (μ − ν)² + (s − t)²."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, (200_000, 1)), rng.normal(4, 0.5, (200_000, 1))
    assert frechet.frechet_distance(a, b) == pytest.approx(9 + 2.25, rel=0.01)
    assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_against_scipys_matrix_root() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8)) + rng.normal(size=8) for _ in range(2))
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_unbiased_and_grows() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 500, 6))
    mean, std = frechet.kernel_distance(a, b, 100, 100)
    assert abs(mean) < 3 * std
    assert frechet.kernel_distance(a, b + 1)[0] > 20 * std


def _grain(size: tuple[int, int], sigma: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Envelope of a complex Gaussian field with a Gaussian point spread function."""
    rng = np.random.default_rng(seed)
    field = [ndimage.gaussian_filter(rng.standard_normal(size), sigma) for _ in range(2)]
    return np.hypot(*field)


def test_fully_developed_speckle_is_rayleigh() -> None:
    envelope = _grain((400, 400), (1.0, 2.0))
    scaled = envelope / envelope.max() * 255
    texture = speckle(scaled.astype(np.uint8), np.ones((400, 400), bool), (0.3, 0.3))
    assert texture.nakagami_m == pytest.approx(1, abs=0.06)
    assert texture.rayleigh_scale == pytest.approx(stats.rayleigh.fit((scaled / 255).ravel(), floc=0)[1], rel=0.02)


def test_grain_is_measured_in_millimetres() -> None:
    """A Gaussian autocorrelation exp(−d² / 4σ²) falls to ½ at 2 σ sqrt(ln 2)."""
    mask = np.zeros((300, 300), bool)
    mask[20:280, 40:260] = True
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((300, 300)), (1.5, 3.0))
    correlation = masked_autocorrelation(np.where(mask, noise, 0), mask)
    assert half_lag(correlation[:, 0]) == pytest.approx(2 * 1.5 * np.log(2) ** 0.5, rel=0.06)
    assert half_lag(correlation[0]) == pytest.approx(2 * 3.0 * np.log(2) ** 0.5, rel=0.06)
    image = (127 + 20 * noise / noise.std()).clip(0, 255).astype(np.uint8)
    fine, coarse = (speckle(image, mask, spacing) for spacing in ((0.2, 0.1), (0.4, 0.2)))
    assert coarse.axial_mm > fine.axial_mm
    assert half_lag(np.array([1.0, 0.9, 0.8])) != half_lag(np.array([1.0, 0.9, 0.8]))  # NaN: never falls


def _pictures(count: int, seed: int) -> np.ndarray:
    """Fans with smooth content of their own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :48]
    fan = np.abs(columns - 24) < rows * 0.6
    content = ndimage.gaussian_filter(rng.standard_normal((count, 48, 48)), (0, 4, 4))
    return np.where(fan, 128 + 60 * content / content.std(), 0).clip(0, 255).round()


def test_moving_is_what_it_says() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 8, 8)).astype(np.uint8)
    assert np.array_equal(privacy.move_images(image, mirrored=True), image[:, :, ::-1])
    assert np.array_equal(privacy.move_images(image, rotation=90), np.rot90(image, axes=(1, 2)))
    assert np.array_equal(privacy.move_images(image, down=1 / 8)[:, 1:], image[:, :-1])
    assert np.array_equal(privacy.move_images(image, right=-2 / 8)[:, :, :-2], image[:, :, 2:])
    both = privacy.move_images(image, mirrored=True, rotation=90)
    assert np.array_equal(both, np.rot90(image[:, :, ::-1], axes=(1, 2)))
    blocks = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((4, 4)))[None].astype(np.uint8)
    assert np.array_equal(privacy.move_images(blocks, scale=2)[:, 1:3, 1:3], np.ones((1, 2, 2)))


@pytest.fixture(scope="module")
def search() -> privacy.CopySearch:
    return privacy.CopySearch(_pictures(60, 1))


@pytest.fixture(scope="module")
def limit(search: privacy.CopySearch) -> float:
    return privacy.threshold(search.nearest(_pictures(80, 2)).similarity, 0.05)


@pytest.mark.slow
def test_planted_copies_are_found(search: privacy.CopySearch, limit: float) -> None:
    """A training image with ±2 grey levels, shifted by a pixel, mirrored."""
    rng = np.random.default_rng(0)
    training = _pictures(60, 1)
    copies = np.where(training > 0, training + rng.integers(-2, 3, training.shape), 0)
    moved = (np.roll(copies[3:6], 1, 2), copies[6:9, :, ::-1], np.roll(copies[9:12], -1, 1))
    nearest = search.nearest(np.concatenate([copies[:3], *moved]))
    assert (nearest.similarity > limit).all()
    assert nearest.index.tolist() == list(range(12))
    assert nearest.mirrored.tolist() == [i in (6, 7, 8) for i in range(12)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rotation", "scale", "gain"),
    [(1, 1, 1), (-5, 1, 1), (10, 1, 1), (0, 0.9, 1), (0, 1.1, 1), (0, 1, 0.6), (7, 0.93, 0.8)],
)
def test_copies_are_found_however_they_are_moved(
    search: privacy.CopySearch, limit: float, rotation: float, scale: float, gain: float
) -> None:
    moved = privacy.move_images(_pictures(60, 1)[:12].astype(np.uint8), rotation=rotation, scale=scale, right=0.05)
    nearest = search.nearest(moved * gain)
    assert (nearest.similarity > limit).all()
    assert nearest.index.tolist() == list(range(12))
    assert np.median(nearest.rotation) == pytest.approx(rotation, abs=1)
    assert np.median(nearest.scale) == pytest.approx(scale, abs=0.02)


@pytest.mark.slow
def test_unseen_images_are_flagged_at_the_stated_rate(search: privacy.CopySearch) -> None:
    flagged = []
    for i in range(5):
        unseen, others = (search.nearest(_pictures(50, k + i)).similarity for k in (100, 200))
        flagged.append(np.mean(unseen > privacy.threshold(others, 0.1)))
    # 250 images: standard error 2 %, and as much from the thresholds.
    assert np.mean(flagged) == pytest.approx(0.1, abs=0.06)
    assert privacy.threshold(np.array([0.5, 0.6]), 0.05) == float("inf")


def test_the_thresholds_interval_knows_that_images_of_a_patient_are_alike() -> None:
    rng = np.random.default_rng(0)
    hearts, alone = rng.random(50), np.arange(200).astype(str)
    similarity = np.repeat(hearts, 4)
    low, high = privacy.threshold_interval(similarity, np.repeat(np.arange(50).astype(str), 4), 0.1)
    assert low < privacy.threshold(similarity, 0.1) < high
    narrow = privacy.threshold_interval(similarity, alone, 0.1)
    assert high - low > 1.3 * (narrow[1] - narrow[0])
    assert privacy.threshold_interval(hearts[:4], alone[:4], 0.05)[1] == float("inf")


def test_embedding_neighbours_by_hand() -> None:
    references = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    nearest = privacy.embedding_neighbours(np.array([[5.0, 0.1], [0.0, 3.0]]), references)
    assert nearest.index.tolist() == [0, 1]
    assert nearest.similarity == pytest.approx([1, 1], abs=0.01)


def test_interval_of_a_share() -> None:
    assert privacy.share_interval(0, 100) == pytest.approx((0, 0.0362), abs=1e-3)
    low, high = privacy.share_interval(30, 100)
    exact = stats.binomtest(30, 100).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    assert privacy.share_interval(5, 5)[1] == 1
