"""Patients and trainings together: closed forms, coverage by simulation, power."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from echo_synth.metrics.random_effects import Arm, MeanEstimate, arm_difference, arm_mean

_PATIENTS, _IMAGES = 50, 2


def _arm(
    rng: np.random.Generator,
    person: np.ndarray,
    generators: int,
    segmenters: int,
    shift: float = 0.0,
    generator_sd: float = 0.0,
    segmenter_sd: float = 0.0,
) -> Arm:
    """Dice-like scores: patients share most of it with every arm, trainings shift all patients, and each a little."""
    shape = (len(person), _IMAGES, generators, segmenters)
    scores = shift + person[:, None, None, None] + rng.normal(0, 0.02, shape)
    scores += rng.normal(0, 0.008, (len(person), 1, generators, segmenters))
    scores += rng.normal(0, generator_sd, (generators, 1)) + rng.normal(0, segmenter_sd, segmenters)
    patient, _, generator, segmenter = np.indices(shape)
    return Arm(scores.ravel(), patient.ravel().astype(str), generator.ravel(), segmenter.ravel())


def _differences(
    trials: int, first: tuple[int, int], second: tuple[int, int], shift: float = 0.0, **sd: float
) -> list[MeanEstimate]:
    rng = np.random.default_rng(11)
    persons = (rng.normal(0, 0.03, _PATIENTS) for _ in range(trials))
    return [arm_difference(_arm(rng, p, *first, shift, **sd), _arm(rng, p, *second, **sd)) for p in persons]


@pytest.mark.parametrize("sd", [0.0025, 0.03])
@pytest.mark.parametrize(("first", "second"), [((1, 2), (1, 2)), ((1, 3), (1, 3)), ((1, 3), (1, 1)), ((2, 3), (2, 3))])
def test_trainings_that_differ_in_seed_alone_do_not_differ(
    first: tuple[int, int], second: tuple[int, int], sd: float
) -> None:
    """p ≥ 0.05 in at least 93 of 100; 200 trials, standard error 1.5 %."""
    spread = {"segmenter_sd": sd, "generator_sd": sd if first[0] > 1 else 0.0}
    found = _differences(200, first, second, **spread)
    assert np.mean([d.p_value() >= 0.05 for d in found]) >= 0.93
    assert all(d.knows_trainings for d in found)
    assert np.mean([np.isclose(d.p_value() < 0.05, not d.interval()[0] <= 0 <= d.interval()[1]) for d in found]) == 1


_NESTED_9_TO_1 = tuple((g, 10 * g + s) for g, repeats in ((0, 9), (1, 1)) for s in range(repeats))
_L_SHAPED = ((0, 0), (0, 1), (1, 0))
_FIVE_TO_ONE = (*((0, s) for s in range(5)), (1, 0))


def _some_of(arm: Arm, seeds: tuple[tuple[int, int], ...]) -> Arm:
    kept = [pair in seeds for pair in zip(arm.generators.tolist(), arm.segmenters.tolist(), strict=True)]
    return Arm(*(values[kept] for values in (arm.values, arm.patients, arm.generators, arm.segmenters)))


@pytest.mark.parametrize(
    ("seeds", "generator_sd", "segmenter_sd"),
    [(_NESTED_9_TO_1, 0.01, 0.003), (_L_SHAPED, 0.001, 0.01), (_L_SHAPED, 0.01, 0.001), (_FIVE_TO_ONE, 0.01, 0.004)],
)
def test_seeds_that_are_repeated_unequally_do_not_differ(
    seeds: tuple[tuple[int, int], ...], generator_sd: float, segmenter_sd: float
) -> None:
    """p ≥ 0.05 in at least 93 of 100, as where all are repeated alike: of 9 and 1 it was 84, of three of two by two 82."""
    rng = np.random.default_rng(12)
    trials, kept = 150, 0
    levels = [max(pair[k] for pair in seeds) + 1 for k in (0, 1)]
    for _ in range(trials):
        person = rng.normal(0, 0.03, 20)
        full = [_arm(rng, person, *levels, 0.0, generator_sd, segmenter_sd) for _ in range(2)]
        kept += arm_difference(*(_some_of(arm, seeds) for arm in full)).p_value() >= 0.05
    assert kept / trials >= 0.93


def test_unequal_nesting_by_hand() -> None:
    """Three trainings on one generator's images and one on the other's: Var = σ² (3² + 1²) / 4², σ² = MS / n0, n0 = 4 − 10 / 4."""
    means, generators = np.array([0.1, 0.1, 0.1, 0.5]), np.array([0, 0, 0, 1])
    patients = np.repeat(np.arange(20), 4).astype(str)
    arm = Arm(np.tile(means, 20), patients, np.tile(generators, 20), np.tile(np.arange(4), 20))
    square = 3 * (0.1 - 0.2) ** 2 + (0.5 - 0.2) ** 2
    found = arm_mean(arm)
    assert found.mean == pytest.approx(0.2)
    assert found.variance == pytest.approx(10 / 16 * square / 1.5)
    assert found.variance == pytest.approx(10 / 16 * 0.4**2 / 2)  # of two generators' means, known without error
    assert found.df == pytest.approx(1)


def test_patients_alone_would_call_them_different() -> None:
    """One training each at the spread that was measured between seeds: the old comparison errs far more often than in 5 %."""
    found = _differences(100, (1, 1), (1, 1), segmenter_sd=0.01)
    assert not any(d.knows_trainings for d in found)
    assert np.mean([d.p_value() < 0.05 for d in found]) > 0.3


def test_a_real_difference_is_found() -> None:
    found = _differences(100, (1, 3), (1, 3), shift=0.02, segmenter_sd=0.0025)
    assert np.mean([d.p_value() < 0.05 for d in found]) > 0.95
    assert np.mean([d.interval()[0] <= 0.02 <= d.interval()[1] for d in found]) >= 0.9


def test_intervals_of_one_arm_cover() -> None:
    rng, covered = np.random.default_rng(3), 0
    for _ in range(200):
        person = rng.normal(0, 0.03, _PATIENTS)
        low, high = arm_mean(_arm(rng, person, 1, 3, segmenter_sd=0.005)).interval()
        covered += low <= 0 <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_one_training_is_a_t_test_over_patients() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.1, 1, 30), rng.normal(0, 1, 30)
    names, zero = np.arange(30).astype(str), np.zeros(30, np.int64)
    found = arm_difference(Arm(a, names, zero, zero), Arm(b, names, zero, zero))
    assert found.p_value() == pytest.approx(stats.ttest_rel(a, b).pvalue)
    interval = stats.ttest_rel(a, b).confidence_interval()
    assert found.interval() == pytest.approx((interval.low, interval.high))


def test_trainings_without_patients_noise_are_a_t_test_over_trainings() -> None:
    """Every image of a training has its mean: only trainings count."""
    ours, theirs = np.array([0.3, 0.5, 0.4]), np.array([0.2, 0.1, 0.25])
    found = arm_difference(*(_constant(m) for m in (ours, theirs)))
    expected = stats.ttest_ind(ours, theirs)
    assert found.p_value() == pytest.approx(expected.pvalue)
    assert found.df == pytest.approx(4)


def _constant(means: np.ndarray) -> Arm:
    training = np.tile(np.arange(len(means)), 20)
    patients = np.repeat(np.arange(20), len(means)).astype(str)
    return Arm(np.tile(means, 20), patients, np.zeros_like(training), training)


@pytest.mark.filterwarnings("error")
def test_a_training_without_any_value_leaves_no_estimate() -> None:
    """The mean of the other two would be that of the trainings that succeeded."""
    rng = np.random.default_rng(8)
    person = rng.normal(0, 0.03, 12)
    ours, theirs = _arm(rng, person, 1, 3), _arm(rng, person, 1, 3)
    failed = np.where(ours.segmenters == 2, np.nan, ours.values)
    ours = Arm(failed, ours.patients, ours.generators, ours.segmenters)
    for found in (arm_mean(ours), arm_difference(ours, theirs), arm_difference(theirs, ours)):
        assert np.isnan([found.mean, *found.interval(), found.p_value()]).all()
        assert 3 in found.trainings


def test_gaps_and_patients_of_one_arm_only() -> None:
    rng = np.random.default_rng(6)
    person = rng.normal(0, 0.03, 12)
    ours, theirs = _arm(rng, person, 1, 2), _arm(rng, person, 1, 2)
    gone = np.where(theirs.patients == "3", np.nan, theirs.values)
    with_gap = arm_difference(ours, Arm(gone, theirs.patients, theirs.generators, theirs.segmenters))
    kept = ours.patients != "3"
    without = arm_difference(
        *(Arm(*(v[kept] for v in (a.values, a.patients, a.generators, a.segmenters))) for a in (ours, theirs))
    )
    assert with_gap.mean == pytest.approx(without.mean)
    assert with_gap.interval() == pytest.approx(without.interval())
