"""Differences of two arms on the same cases: intervals, tests, and whether a difference is of no consequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.errors import DataError
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.results import Difference, Differences, Estimate
from echo_synth.evaluation.statistics import Resampling, covers, no_estimate, number, of_trainings, summarise
from echo_synth.evaluation.trainings import arm_of, count_trainings, count_without_value, seed_columns
from echo_synth.metrics import bootstrap
from echo_synth.metrics.random_effects import MeanEstimate, arm_difference

LEVEL = 0.05
_SHARED = "dice"


def paired_metrics(
    per_case: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], resampling: Resampling
) -> Mapping[str, Differences]:
    """Mean differences to baselines' predictions of the same cases, with Holm's correction.

    One family a metric: in which structures, and against which baselines, does it differ?

    Args:
        per_case, baselines: columns of `case_scores.CaseScore`; generator_seed and segmenter_seed
            where an arm has several trainings.

    Returns:
        baseline, structure, metric: the difference.

    Raises DataError when a baseline holds other cases.
    """
    pairs = {name: (per_case, baseline) for name, baseline in baselines.items()}
    differences = paired_differences(pairs, resampling)
    for metric in METRICS:
        family = [d for structures in differences.values() for _, d in _of_metric(structures, metric)]
        correct_family(family, METRICS[metric].more_is_better)
    return differences


def _of_metric(structures: Differences, metric: str) -> Iterator[tuple[str, Difference]]:
    return ((structure, metrics[metric]) for structure, metrics in structures.items())


def correct_family(family: list[Difference], more_is_better: bool | None) -> None:
    """Add p_holm over the tests of one question, and the verdicts that follow. A test that has no p counts as 1, and keeps none."""
    adjusted = bootstrap.holm([1.0 if d["p"] is None else d["p"] for d in family])
    for difference, p in zip(family, adjusted, strict=True):
        difference["p_holm"] = float(p) if difference["p"] is not None else None
        difference["verdict"] = verdict(difference, float(p), more_is_better)


def paired_differences(
    pairs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], resampling: Resampling
) -> Mapping[str, Differences]:
    """`paired_metrics`, without the correction, of any pairs: what is compared, and its baseline, by name."""
    result = {}
    for name, (per_case, baseline) in pairs.items():
        check_same_cases(name, per_case, baseline)
        result[name] = {
            str(structure): _structure(rows, baseline[baseline["structure"] == structure], resampling)
            for structure, rows in per_case.groupby("structure", sort=False)
        }
    return result


def check_same_cases(name: str, table: pd.DataFrame, baseline: pd.DataFrame) -> None:
    """Raise DataError unless every training of both arms holds the same cases and structures, each once."""
    held = [cases for arm in (table, baseline) for cases in _cases_by_training(arm)]
    if any(cases != held[0] or len(set(cases)) < len(cases) for cases in held):
        raise DataError(
            f"baseline {name} holds other cases than the predictions; predict the same test cases with both"
        )


def _cases_by_training(table: pd.DataFrame) -> list[list[tuple[str, str]]]:
    keys = [seed for _, seed in seed_columns(table).items()]
    return [sorted(zip(rows["case"], rows["structure"], strict=True)) for _, rows in table.groupby(keys)]


def _structure(rows: pd.DataFrame, baseline: pd.DataFrame, resampling: Resampling) -> Mapping[str, Difference]:
    differences = {
        name: difference(rows, baseline, name, resampling, metric.margin, metric.more_is_better)
        for name, metric in METRICS.items()
    }
    _, paired = _scored_by_all(rows, baseline, _SHARED)  # the images that the difference is of
    _add_share(differences[_SHARED], float(paired[_SHARED].mean()))
    return differences


def _add_share(difference: Difference, baseline: float) -> None:
    """How much of the baseline's score is reached: what papers on synthetic images state."""
    mean, (low, high) = difference["mean"], difference["ci95"] or (None, None)
    if baseline > 0 and mean is not None:
        difference["share"] = 1 + mean / baseline
        if low is not None and high is not None:
            difference["share_ci95"] = [max(0.0, 1 + low / baseline), 1 + high / baseline]


def difference(
    rows: pd.DataFrame,
    baseline: pd.DataFrame,
    column: str,
    resampling: Resampling,
    margin: float | None,
    more_is_better: bool | None,
) -> Difference:
    """Mean of one column in `rows` minus its mean in `baseline`.

    One training on both sides: patients are resampled, p flips their signs. Several: interval and
    p know patients and trainings (`metrics.random_effects`).

    Args:
        rows, baseline: columns case, patient, `column`, and seeds where there are several trainings.
        margin: for equivalence and non-inferiority: whether the 95 % interval lies within it, or crosses it the harmful way.
        more_is_better: None where neither way is, as for a bias: then nothing is inferior.
    """
    total = {"of_images": int(rows["case"].nunique()), "of_patients": int(rows["patient"].nunique())}
    lacking = count_without_value(rows, column) + count_without_value(baseline, column)
    ours, theirs = _scored_by_all(rows, baseline, column)
    if lacking or not len(ours):
        return cast(Difference, {**_no_difference(rows, baseline, column, lacking), **total})
    rows, baseline = ours, theirs
    estimate = arm_difference(arm_of(rows, column), arm_of(baseline, column))
    values, patients = _by_case(rows, baseline, column)
    summary = summarise(values, patients, resampling)
    p = float("nan")  # of one patient, whose flipped sign is the same difference
    if summary["n_patients"] > 1:
        p = bootstrap.sign_flip_test(values, patients, resampling.seed)
    if estimate.knows_trainings:
        most = METRICS[column].most if column in METRICS else np.inf
        summary = cast(Estimate, {**summary, **of_trainings(estimate, (-most, most))})
        p = estimate.p_value()
    counts = {"trainings": [count_trainings(rows), count_trainings(baseline)], "covers": covers(estimate)}
    tests = _within_margin(estimate, margin, more_is_better) if margin is not None else {}
    return cast(Difference, {**summary, "p": number(p), **counts, **total, **tests})


def _no_difference(rows: pd.DataFrame, baseline: pd.DataFrame, column: str, lacking: int) -> Difference:
    """Where a training has no score, as the mean of the others would be that of trainings that succeed; or no case is scored by all."""
    trainings = [count_trainings(arm) - count_without_value(arm, column) for arm in (rows, baseline)]
    known = "patients and trainings" if max(map(count_trainings, (rows, baseline))) > 1 else "patients"
    counts = {"p": None, "covers": known, "trainings": trainings}
    told = {"trainings_without_value": lacking} if lacking else {}
    return cast(Difference, {**no_estimate(), **counts, **told})


def _scored_by_all(rows: pd.DataFrame, baseline: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cases that have a score in every training of both arms: mean, interval and every p are of the same ones.

    Where reference and prediction are both without a structure there is none; then it cannot be paired.
    """
    lost = {case for arm in (rows, baseline) for case in arm.loc[~np.isfinite(arm[column].astype(float)), "case"]}
    return rows[~rows["case"].isin(lost)], baseline[~baseline["case"].isin(lost)]


def _by_case(rows: pd.DataFrame, baseline: pd.DataFrame, column: str) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Differences case by case, of means over trainings, and whose they are."""
    patients = rows.groupby("case")["patient"].first()
    means = rows.groupby("case")[column].mean() - baseline.groupby("case")[column].mean()
    return means.to_numpy(np.float64), patients[means.index].to_numpy(str)


def _within_margin(estimate: MeanEstimate, margin: float, more_is_better: bool | None) -> dict[str, float | None]:
    """Two one-sided tests (Schuirmann 1987), and the one of them that asks for no harm, by Student's t.

    Both are below 0.025 where the 95 % interval lies within the margin: so much the protocol asks for.
    """
    not_below, not_above = estimate.p_above(-margin), 1 - estimate.p_above(margin)
    tests = {"margin": margin, "p_equivalent": number(max(not_below, not_above))}
    if more_is_better is None:
        return tests
    return tests | {"p_noninferior": number(not_below if more_is_better else not_above)}


def verdict(difference: Difference, p: float, more_is_better: bool | None) -> str:
    """What a difference says, in words: better, worse (or different), equivalent, non-inferior, both or "open".

    Equivalent: its 95 % interval lies within the margin; non-inferior: it does not reach the margin the harmful way.
    "patients alone" where both sides have one training: whether another training of the same kind
    would differ as much is not known, so nothing is said of the kinds.
    """
    mean = difference["mean"]
    if difference["covers"] == "patients" or mean is None:
        return "patients alone" if mean is not None else "open"
    words = []
    if p < LEVEL:
        good = {None: "different", mean > 0: "better"}
        words.append(good.get(more_is_better, "worse"))
    below, above = _bounds_within(difference)
    if below and above:
        words.append("equivalent")
    elif more_is_better is not None and (below if more_is_better else above) and words != ["better"]:
        words.append("non-inferior")
    return ", ".join(words) or "open"


def _bounds_within(difference: Difference) -> tuple[bool, bool]:
    """Whether the 95 % interval ends above minus the margin, and below plus it: the interval that is shown decides."""
    margin, (low, high) = difference.get("margin"), difference["ci95"]
    if margin is None or low is None or high is None:
        return False, False
    return low > -margin, high < margin
