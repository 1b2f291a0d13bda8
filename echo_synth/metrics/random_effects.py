"""Means and differences whose error has two sources: the choice of patients, and the trainings.

The score of image i of patient p by the training with generator seed g and segmenter seed s is modelled as

    y = arm + patient + generator + segmenter + (generator x segmenter) + (patient x training) + image,

everything but the arm random, patients crossed with trainings, trainings nested in their arm. The
variance of an arm's mean, or of the difference of two arms on the same patients, is estimated from
mean squares, with degrees of freedom after Satterthwaite, as in multi-reader multi-case
studies (Obuchowski & Rockette 1995; Hillis 2007, 2014), with trainings as readers. A bootstrap of two or
three seeds would be too narrow, because its variance divides by n and not by n − 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """Scores of one arm of a comparison, one per image and training; all fields (N,).

    Attributes:
        values: the scores; NaN is left out. A training that has nothing else leaves no estimate: what it would
            score is not known, and the mean of the others would be that of trainings that succeed.
        patients: the patient of each image.
        generators, segmenters: seeds of the training; rows with the same pair belong to one training.
    """

    values: Floats
    patients: NDArray[np.str_]
    generators: NDArray[np.int64]
    segmenters: NDArray[np.int64]


@dataclass(frozen=True)
class MeanEstimate:
    """A mean, or a difference of means, with the variance of its error.

    Attributes:
        mean: images of one training have equal weight, and so have trainings of one arm; NaN, as the variance, if
            a training has no value.
        variance, df: of the mean's error, and its degrees of freedom; NaN if there is only one patient.
        generators, segmenters, trainings: how many different seeds, and trainings, each arm has.
    """

    mean: float
    variance: float
    df: float
    generators: tuple[int, ...]
    segmenters: tuple[int, ...]
    trainings: tuple[int, ...]

    @property
    def knows_trainings(self) -> bool:
        """Whether the variance includes that between trainings: some arm has two or more."""
        return max(self.trainings) > 1

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval by Student's t."""
        half = float(stats.t.ppf(0.5 * (1 + level), self.df)) * self.variance**0.5
        return self.mean - half, self.mean + half

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p-value of a mean of `null`."""
        return 2 * min(self.p_above(null), 1 - self.p_above(null))

    def p_above(self, limit: float) -> float:
        """One-sided p-value of "the mean is at most `limit`": small if the mean lies above."""
        if self.variance == 0:
            return float(self.mean <= limit) if self.mean != limit else 0.5
        return float(stats.t.sf((self.mean - limit) / self.variance**0.5, self.df))


@dataclass(frozen=True)
class _Parts:
    """What one arm gives: its mean, each patient's and the trainings' part of the error.

    Attributes:
        influence: (P,) what each patient adds to the mean's error.
        between: variance of the mean from trainings, with the patient x training part in it; df its degrees of freedom.
        within: that part, which the patients' influence holds as well.
        one: variance of a single training's mean.
        levels: different generator seeds, different segmenter seeds.
        count: trainings.
        balanced: whether every seed of a kind was repeated alike.
    """

    mean: float
    influence: Floats
    between: float
    df: float
    within: float
    one: float
    levels: tuple[int, int]
    count: int
    balanced: bool


def arm_mean(arm: Arm) -> MeanEstimate:
    """Mean of one arm over patients and trainings."""
    return _combine([_parts(arm, np.unique(arm.patients))])


def arm_difference(arm: Arm, baseline: Arm) -> MeanEstimate:
    """Mean of `arm` minus mean of `baseline` on the patients that have a finite score in both."""
    names = np.intersect1d(_scored(arm), _scored(baseline))
    return _combine([_parts(arm, names), _parts(baseline, names)])


def _scored(arm: Arm) -> NDArray[np.str_]:
    return np.unique(arm.patients[np.isfinite(arm.values)])


def _combine(parts: Sequence[_Parts]) -> MeanEstimate:
    """Mean of the first part, minus that of the second where there is one."""
    signs = (1.0, -1.0)[: len(parts)]
    influence = np.sum([sign * part.influence for sign, part in zip(signs, parts, strict=True)], axis=0)
    patients = len(influence)
    from_patients = patients / (patients - 1) * float((influence**2).sum()) if patients > 1 else float("nan")
    between, df, shared = _trainings(parts)
    variance = from_patients + max(0.0, between - shared)
    sources = [(from_patients, patients - 1.0), (between, df)]
    spread = sum(value**2 / freedom for value, freedom in sources if value > 0)
    least = min((freedom for value, freedom in sources if value > 0), default=float(patients - 1))
    return MeanEstimate(
        mean=float(sum(sign * part.mean for sign, part in zip(signs, parts, strict=True))),
        variance=variance,
        df=max(least, variance**2 / spread)
        if spread > 0
        else least,  # what cancels lowers the variance, not the freedom
        generators=tuple(part.levels[0] for part in parts),
        segmenters=tuple(part.levels[1] for part in parts),
        trainings=tuple(part.count for part in parts),
    )


def _trainings(parts: Sequence[_Parts]) -> tuple[float, float, float]:
    """Variance that the trainings of all arms bring, its degrees of freedom, and the part that patients bring as well.

    Trainings of two arms are taken to scatter alike where the arms repeat the same seeds equally:
    then their mean squares are pooled, and an arm of one training borrows the other's.
    """
    several = [part for part in parts if part.count > 1]
    if not several:
        return 0.0, 1.0, 0.0
    if len(several) < len(parts):
        (lender,) = several
        return lender.between + lender.one, lender.df, lender.within * (1 + lender.count)
    shared = sum(part.within for part in several)
    if len(several) == 2 and _alike(*several):
        df = sum(part.df for part in several)
        square = sum(part.df * part.between * part.count for part in several) / df
        return square * sum(1 / part.count for part in several), df, shared
    between = sum(part.between for part in several)
    spread = sum(part.between**2 / part.df for part in several)
    return between, between**2 / spread if spread > 0 else several[0].df, shared


def _alike(a: _Parts, b: _Parts) -> bool:
    """Whether two arms repeat the same seeds equally: both of one kind, or both kinds as often."""
    kinds = [tuple(level > 1 for level in part.levels) for part in (a, b)]
    return a.balanced and b.balanced and kinds[0] == kinds[1] and (a.levels == b.levels or sum(kinds[0]) == 1)


def _parts(arm: Arm, patients: NDArray[np.str_]) -> _Parts:
    known = np.isfinite(arm.values) & np.isin(arm.patients, patients)
    place = np.searchsorted(patients, arm.patients[known])
    seeds = np.stack([arm.generators, arm.segmenters], 1)
    trainings, training = np.unique(seeds, axis=0, return_inverse=True)
    shape, index = (len(patients), len(trainings)), (place, training.ravel()[known])
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, index, arm.values[known])
    np.add.at(counts, index, 1.0)
    with np.errstate(invalid="ignore"):  # of a training without values: NaN, which stays
        means = sums.sum(0) / counts.sum(0)
        influences = (sums - means * counts) / counts.sum(0)  # (P, T): each patient's on each training's mean
    influence = influences.mean(1)
    within = _within(influences)
    between, df, one, balanced = _between(means, trainings)
    levels = (len(np.unique(trainings[:, 0])), len(np.unique(trainings[:, 1])))
    return _Parts(float(means.mean()), influence, between, df, within, one, levels, len(means), balanced)


def _within(influences: Floats) -> float:
    """Variance of the arm's mean from patient x training (and image), from influences (P, T)."""
    patients, trainings = influences.shape
    if patients < 2 or trainings < 2:
        return 0.0
    rest = influences - influences.mean(1, keepdims=True)
    of_one_training = patients / (patients - 1) * float((rest**2).sum()) / (trainings - 1)
    return of_one_training / trainings


def _between(means: Floats, trainings: NDArray[np.int64]) -> tuple[float, float, float, bool]:
    """Variance of the mean over trainings, (T,) means with (T, 2) seeds, and its degrees of freedom; then that of one
    training's mean, and whether every seed of a kind was repeated alike.

    Crossed seeds: mean squares of both, minus that of their interaction, but no less than either.
    Seeds that come in pairs (each generator its own segmenter): trainings are independent. One nested
    in the other: the outer one counts. Crossed with gaps: both mean squares, of which nothing is taken off.
    """
    count = len(means)
    if count < 2:
        return 0.0, float("nan"), float("nan"), True
    kinds = [_Kind.of(means, trainings[:, k]) for k in (0, 1)]
    levels = [kind.levels for kind in kinds]
    alone = float(means.var(ddof=1))
    if min(levels) == 1 or levels == [count, count]:  # one kind of seed varies, or both together
        return alone / count, count - 1.0, alone, True
    if max(levels) == count:  # nested
        kinds = [kinds[int(np.argmin(levels))]]
    balanced = all(kind.balanced for kind in kinds)
    square = sum(kind.variance for kind in kinds)
    spread = sum(kind.variance**2 / (kind.levels - 1) for kind in kinds)
    if len(kinds) == 2 and count == levels[0] * levels[1]:
        rest = _interaction(means, trainings) / (count - sum(levels) + 1) / count
        square = max(*(kind.variance for kind in kinds), square - rest)
    df = square**2 / spread if spread > 0 else float(min(kind.levels for kind in kinds) - 1)
    return square, df, max(alone, sum(kind.single for kind in kinds)), balanced


@dataclass(frozen=True)
class _Kind:
    """What the seeds of one kind, generators or segmenters, bring: the more unequally they are repeated, the more.

    Attributes:
        variance: of the mean over all trainings, from this kind; mean square times sum(n²)/N² over the repeats that
            a mean square holds one seed's variance with (Searle 1971). Where all are repeated alike that is 1/N.
        single: of one training's mean, from this kind.
        levels: different seeds.
        balanced: whether all are repeated alike.
    """

    variance: float
    single: float
    levels: int
    balanced: bool

    @classmethod
    def of(cls, means: Floats, level: NDArray[np.int64]) -> _Kind:
        """From (T,) means and the seed of each."""
        _, repeats = np.unique(level, return_counts=True)
        count, levels = len(means), len(repeats)
        if levels < 2:
            return cls(0.0, 0.0, levels, True)
        weight = float((repeats**2).sum()) / count**2
        single = _mean_square(means, level) * (levels - 1) / (count * (1 - weight))
        return cls(weight * single, single, levels, len(set(repeats.tolist())) == 1)


def _level_means(means: Floats, level: NDArray[np.int64]) -> Floats:
    """(T,) mean of all trainings of the same level."""
    _, place = np.unique(level, return_inverse=True)
    averages: Floats = (np.bincount(place, means) / np.bincount(place))[place]
    return averages


def _mean_square(means: Floats, level: NDArray[np.int64]) -> float:
    levels = len(np.unique(level))
    return float(((_level_means(means, level) - means.mean()) ** 2).sum()) / max(1, levels - 1)


def _interaction(means: Floats, trainings: NDArray[np.int64]) -> float:
    """Sum of squares that the two seeds' own effects leave."""
    effects = sum(_level_means(means, trainings[:, k]) for k in (0, 1)) - means.mean()
    return float(((means - effects) ** 2).sum())
