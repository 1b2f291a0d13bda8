"""Rank correlation of looks and outcomes: against SciPy, by hand, where it is undefined, and its interval's coverage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from echo_synth.evaluation.looks import LOOKS, look_values, looks_of, with_ways
from echo_synth.evaluation.rank_correlation import COLUMNS, rank_correlations, spearman
from echo_synth.files import write_json
from echo_synth.report.reading import read_quality
from tests.report.tables import QUALITY

pytestmark = pytest.mark.filterwarnings("error")


def _outcome(scores: NDArray[np.float64], datasets: Sequence[str] | None = None) -> pd.DataFrame:
    """Values of (D, P) scores: one training a dataset, one value a patient."""
    names = datasets or [f"d{i}" for i in range(len(scores))]
    return pd.DataFrame(
        [
            {"dataset": name, "training": name, "patient": f"p{j}", "value": value}
            for name, row in zip(names, scores, strict=True)
            for j, value in enumerate(row)
        ]
    )


def _looks(values: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame({"look": values}, index=[f"d{i}" for i in range(len(values))])


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_that_of_scipy(ties: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 9))
    if ties:
        x, y = x.round(), y.round()
    expected = [spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12)


def test_known_orders_have_known_correlations() -> None:
    """The same order is 1, the opposite −1; 1 2 3 4 against 2 1 4 3 is 1 − 6 · 4 / (4 · 15) = 0.6."""
    patients = np.linspace(-0.1, 0.1, 10)
    levels = {"same": [0.1, 0.2, 0.6, 0.7], "opposite": [0.7, 0.6, 0.2, 0.1], "mixed": [0.2, 0.1, 0.7, 0.6]}
    outcomes = {name: _outcome(np.add.outer(np.array(v), patients)) for name, v in levels.items()}
    table = rank_correlations(_looks([1, 10, 100, 1000]), outcomes, 300).set_index("outcome")
    assert table["rho"].to_dict() == pytest.approx({"same": 1, "opposite": -1, "mixed": 0.6})
    for name, rho in (("same", 1), ("opposite", -1)):  # patients shift all datasets alike: every resample says the same
        assert table.loc[name, ["low", "high"]].tolist() == pytest.approx([rho, rho])
    assert table.loc["mixed", "low"] < 0.6 < table.loc["mixed", "high"]
    assert (table["cells"] == 4).all()
    assert (table["patients"] == 10).all()


def test_the_same_seed_gives_the_same_and_another_a_similar_interval() -> None:
    rng = np.random.default_rng(1)
    quality = np.arange(12.0)
    outcomes = {"o": _outcome(quality[:, None] + 6 * rng.normal(size=(12, 30)))}
    looks = _looks(list(quality + 3 * rng.normal(size=12)))
    first, again, other = (rank_correlations(looks, outcomes, 400, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert other["rho"].tolist() == first["rho"].tolist()
    assert other["low"].tolist() != first["low"].tolist()
    assert other["low"].tolist() == pytest.approx(first["low"].tolist(), abs=0.1)
    assert first["low"][0] < first["rho"][0] < first["high"][0]


def test_patients_and_datasets_both_widen_the_interval() -> None:
    """Patients that agree leave what the choice of datasets does; patients that do not add to it."""
    rng = np.random.default_rng(2)
    quality = np.arange(15.0)
    looks = _looks(list(quality + 4 * rng.normal(size=15)))
    noise = rng.normal(size=(15, 12))
    noise -= noise.mean(1, keepdims=True)  # outcomes over all patients, and so rho, stay the same

    def width(scale: float) -> float:
        (row,) = rank_correlations(looks, {"o": _outcome(quality[:, None] + scale * noise)}, 1000).to_dict("records")
        return float(row["high"] - row["low"])

    assert 0.1 < width(0.0) < width(30.0)


def test_a_resample_without_a_spread_counts_for_nothing() -> None:
    """Of four datasets, one resample in 64 is one dataset four times; equal outcomes have no rank correlation at all."""
    same = rank_correlations(_looks([1, 2, 3, 4]), {"o": _outcome(np.full((4, 5), 0.5))}, 200)
    assert same[["rho", "low", "high"]].isna().all(axis=None)
    assert same["cells"].tolist() == [4]
    equal_looks = rank_correlations(_looks([1, 1, 1, 1]), {"o": _outcome(np.arange(20.0).reshape(4, 5))}, 200)
    assert equal_looks["rho"].isna().all()
    some = rank_correlations(_looks([1, 2, 3, 4]), {"o": _outcome(np.arange(20.0).reshape(4, 5))}, 2000)
    assert some["low"].tolist() == [1.0]
    assert np.isnan(spearman(np.array([[1.0, 2, np.nan]]), np.array([[1.0, 2, 3]])))


def test_three_datasets_have_no_correlation() -> None:
    scores = np.arange(20.0).reshape(4, 5)
    assert len(rank_correlations(_looks([1, 2, 3, 4]), {"o": _outcome(scores)}, 20)) == 1
    assert rank_correlations(_looks([1, 2, 3, np.nan]), {"o": _outcome(scores)}, 20).empty
    assert rank_correlations(_looks([1, 2, 3, 4]), {"o": _outcome(scores[:3])}, 20).empty
    none = rank_correlations(_looks([1, 2, 3, 4]), {"o": _outcome(scores).iloc[:0]}, 20)
    assert none.empty
    assert tuple(none.columns) == COLUMNS
    lost = scores.copy()
    lost[1] = np.nan  # of one dataset no value is known
    assert rank_correlations(_looks([1, 2, 3, 4]), {"o": _outcome(lost)}, 20).empty


def test_a_dataset_counts_once_however_often_it_is_trained_on() -> None:
    """Its outcome is the mean over trainings, not over values: a training with fewer values weighs as much."""
    once = _outcome(np.array([[0.1, 0.1], [0.2, 0.2], [0.45, 0.45], [0.4, 0.4]]))
    split = once[once["dataset"] != "d2"]
    trainings = pd.DataFrame(
        [("d2", "a", "p0", 0.3), ("d2", "a", "p1", 0.3), ("d2", "b", "p0", 0.6)],
        columns=["dataset", "training", "patient", "value"],
    )
    looks = _looks([1, 2, 3, 4])
    table = rank_correlations(looks, {"once": once, "twice": pd.concat([split, trainings])}, 50).set_index("outcome")
    assert table["cells"].tolist() == [4, 4]
    assert table.loc["once", "rho"] == table.loc["twice", "rho"] == pytest.approx(0.8)  # 0.45 above 0.4, not 0.4 = 0.4


def test_the_interval_covers_what_it_should() -> None:
    """Datasets from a bivariate normal, whose Spearman correlation is 6/π · arcsin(r / 2), judged on few noisy patients."""
    rng = np.random.default_rng(3)
    r, datasets, patients, runs = 0.7, 25, 20, 120
    truth = 6 / np.pi * np.arcsin(r / 2)
    inside = 0
    for _ in range(runs):
        quality, other = rng.normal(size=(2, datasets))
        look = r * quality + np.sqrt(1 - r**2) * other
        scores = quality[:, None] + 0.5 * rng.normal(size=(datasets, patients))
        (row,) = rank_correlations(_looks(list(look)), {"o": _outcome(scores)}, 200).to_dict("records")
        inside += row["low"] <= truth <= row["high"]
    assert 0.88 * runs <= inside < runs  # a 95 % interval; three standard errors of 120 runs are 6 %


def test_looks_are_read_from_what_quality_leaves(tmp_path: Path) -> None:
    write_json(tmp_path / "quality.json", QUALITY)
    looks = looks_of(read_quality(tmp_path / "quality.json"))
    expected = {"agreement": 0.8, "kernel_distance": 0.1, "frechet_distance": 3.0, "grain_ratio": 1.0}
    assert looks == expected | {
        "grey_level_distance": 0.1,
        "diversity_ratio": 0.8,
        "near_copies": 0.05,
        "real_or_synthetic_auroc": 0.7,
    }
    assert set(looks) == {look.column for look in LOOKS.values()}
    less = {k: v for k, v in QUALITY.items() if k not in ("features", "diversity", "agreement", "real_or_synthetic")}
    write_json(tmp_path / "quality.json", less)
    few = looks_of(read_quality(tmp_path / "quality.json"))
    assert {k for k, v in few.items() if v is not None} == {"grain_ratio", "grey_level_distance", "near_copies"}


def test_ratios_count_by_their_difference_from_real_images() -> None:
    table = pd.DataFrame({"grain_ratio": [0.0, 0.9, 1.0, 1.5, None], "agreement": [0.1, 0.2, 0.3, 0.4, 0.5]})
    table["real_or_synthetic_auroc"] = [0.39, 0.5, 0.6, 1.0, None]
    values = look_values(table)
    # Below 0.5 by chance: not more real than images that cannot be told apart.
    assert values["real_or_synthetic"].tolist()[:4] == [0.5, 0.5, 0.6, 1.0]
    assert values["grain_difference"].tolist()[:4] == pytest.approx([1.0, 0.1, 0.0, 0.5])
    assert np.isnan(values["grain_difference"][4])
    assert values["agreement"].tolist() == table["agreement"].tolist()
    pairs = pd.DataFrame({"measure": ["agreement", "kernel_distance"], "outcome": ["ef_mae", "accuracy"], "rho": 0.5})
    told = with_ways(pairs)
    assert told["real_is"].tolist() == ["high", "low"]
    assert told["better_is"].tolist() == ["low", "high"]
