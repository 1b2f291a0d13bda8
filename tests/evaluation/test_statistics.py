"""Bootstrap intervals and tests: coverage by simulation, scipy, and exhaustive enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from echo_synth.metrics import bootstrap, classification


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


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_patient_intervals_cover_skewed_distances(method: bootstrap.Method) -> None:
    """Hausdorff-like values: skewed between patients, four correlated images each.

    1000 trials: standard error of the coverage 0.7 %.
    """
    rng = np.random.default_rng(3)
    covered = 0
    truth = float(np.exp(1.5 + 0.35**2 / 2) * np.exp(0.2**2 / 2))
    patients = np.repeat([f"p{i}" for i in range(50)], 4)
    for trial in range(1000):
        values = np.exp(rng.normal(1.5, 0.35, 50))[:, None] * np.exp(rng.normal(0, 0.2, (50, 4)))
        low, high = bootstrap.patient_interval(values.ravel(), patients, 500, trial, method=method)
        covered += low <= truth <= high
    assert 0.925 <= covered / 1000 <= 0.97


def test_bca_is_scipys_when_patients_have_one_image() -> None:
    values = np.random.default_rng(0).gamma(1.0, 2.0, 40)
    names = np.array([f"p{i:02d}" for i in range(40)])
    low, high = bootstrap.patient_interval(values, names, 20_000, 0)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", random_state=1).confidence_interval
    plain = bootstrap.patient_interval(values, names, 20_000, 0, method="percentile")
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02 * width)
    assert low > plain[0]  # skewed to the right: both ends move up
    assert high > plain[1]


def test_intervals_of_constant_values_are_that_value() -> None:
    patients = np.repeat(["a", "b", "c"], 2)
    assert bootstrap.patient_interval(np.full(6, 0.8), patients, 100) == pytest.approx((0.8, 0.8))
    assert all(np.isnan(bootstrap.patient_interval(np.full(6, np.nan), patients, 100)))


def test_any_statistic_of_patients() -> None:
    """For a mean it is `patient_interval`; AUROC's interval holds its estimate."""
    rng = np.random.default_rng(5)
    values, patients = _patients(rng)
    std, (low, high) = bootstrap.patient_statistic(lambda i: float(values[i].mean()), patients, 1000, 7)
    assert (low, high) == pytest.approx(bootstrap.patient_interval(values, patients, 1000, 7), abs=0.03)
    assert std == pytest.approx(values.reshape(50, 4).mean(1).std() / 50**0.5, rel=0.1)
    truth, probability = np.tile([0, 1], 100), rng.random(200)
    _, (low, high) = bootstrap.patient_statistic(
        lambda i: classification.auroc(truth[i], probability[i]), patients, 200, 0
    )
    assert low < classification.auroc(truth, probability) < high


def test_subsets_of_any_statistic_are_those_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(size=150)
    found = bootstrap.subset_statistic(lambda i: float(values[i].mean()), 150, 4000, 1)
    assert found == pytest.approx(bootstrap.subset_bootstrap(values, 4000, 1)[1], rel=0.05)


def _by_all_flips(sums: np.ndarray) -> float:
    """Share of all sign flips whose sum is as far from zero: an implementation of its own."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(sums))))
    return float(np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12))


def test_sign_flips_against_all_of_them() -> None:
    """Exactly where there are no more flips than asked for, else up to the error of random ones."""
    rng = np.random.default_rng(8)
    for count, tolerance in ((1, 0), (2, 0), (9, 0), (15, 0.01)):
        sums = rng.normal(0.4, 1, count)
        patients, values = np.repeat([f"p{i}" for i in range(count)], 2), np.repeat(sums / 2, 2)
        assert bootstrap.sign_flip_test(values, patients, 0, 20_000) == pytest.approx(
            _by_all_flips(sums), abs=tolerance
        )


def test_sign_flips_count_ties_and_leave_gaps_out() -> None:
    values, patients = np.full(12, 0.1), np.repeat([f"p{i}" for i in range(6)], 2)
    values[:2] *= -1  # of 64 flips 14 leave a sum as far from zero: one sign differs at most
    assert bootstrap.sign_flip_test(values, patients) == pytest.approx(14 / 64)
    gap = np.append(values, np.nan), np.append(patients, "p0")
    assert bootstrap.sign_flip_test(*gap) == pytest.approx(14 / 64)


def test_sign_flips_are_level_without_a_difference() -> None:
    """p ≤ 0.05 in 5 % of 600 trials; standard error 0.9 %."""
    rng = np.random.default_rng(9)
    found = [bootstrap.sign_flip_test(*_patients(rng, 20), seed=i, flips=400) <= 0.05 for i in range(600)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.03)


def test_holm_by_hand() -> None:
    assert bootstrap.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert bootstrap.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
