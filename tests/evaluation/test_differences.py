"""Differences of arms: verdicts, margins, families, failures, classes of EF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import DataError
from echo_synth.evaluation import statistics
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.differences import paired_metrics
from echo_synth.evaluation.statistics import Resampling
from echo_synth.evaluation.trainings import find_trainings
from echo_synth.evaluation.view_statistics import classification_metrics
from echo_synth.evaluation.volume_statistics import paired_volumes, volume_metrics
from echo_synth.experiment.comparisons import compare_cells
from echo_synth.metrics import classification
from echo_synth.metrics.agreement import intraclass_correlation, weighted_kappa
from echo_synth.report.headline import of_evaluation
from echo_synth.report.tables import comparison_rows, summary

_RESAMPLING = Resampling(100)


def _scores(dice: float, trainings: int = 1, patients: int = 30, spread: float = 0.001) -> pd.DataFrame:
    """Two structures, two images a patient; the distance is 10 mm less 10 times the Dice."""
    rng = np.random.default_rng(0)
    person = rng.normal(0, 0.02, patients)
    rows = []
    for t in range(trainings):
        for i in range(2 * patients):
            value = dice + person[i // 2] + rng.normal(0, spread)
            scores = {m: value if m == "dice" else 10 * (1 - value) for m in METRICS}
            both = [{"case": f"c{i}", "patient": f"p{i // 2}", "structure": s, **scores} for s in ("lv_endo", "la")]
            rows += [row | {"generator_seed": 0, "segmenter_seed": t} for row in both]
    return pd.DataFrame(rows)


def test_one_training_each_says_nothing_of_kinds() -> None:
    found = paired_metrics(_scores(0.9), {"other": _scores(0.8)}, _RESAMPLING)["other"]["la"]["dice"]
    assert found["p"] < 0.001
    assert (found["covers"], found["verdict"], found["trainings"]) == ("patients", "patients alone", [1, 1])


def test_verdicts_follow_the_way_that_is_good() -> None:
    found = paired_metrics(_scores(0.8, 3), {"other": _scores(0.9, 3)}, _RESAMPLING)["other"]["la"]
    assert found["dice"]["verdict"] == found["hd_mm"]["verdict"].split(",")[0] == "worse"
    assert found["dice"]["mean"] == pytest.approx(-0.1, abs=0.005)
    assert found["dice"]["p_noninferior"] > 0.95
    better = paired_metrics(_scores(0.9, 3), {"other": _scores(0.8, 3)}, _RESAMPLING)["other"]["la"]
    assert better["dice"]["verdict"] == "better"


def test_share_of_the_baselines_dice() -> None:
    found = paired_metrics(_scores(0.81, 3), {"other": _scores(0.9, 3)}, _RESAMPLING)["other"]["la"]
    assert found["dice"]["share"] == pytest.approx(0.9, abs=0.003)
    low, high = found["dice"]["share_ci95"]
    assert low < found["dice"]["share"] < high
    assert low == pytest.approx(1 + found["dice"]["ci95"][0] / 0.9, abs=1e-3)
    assert "share" not in found["hd_mm"]


def test_equality_is_shown_only_by_a_narrow_interval() -> None:
    """The same kind: equivalent within 0.01 where patients are many and alike, open where the noise is wide."""
    close = paired_metrics(_scores(0.9, 3), {"o": _scores(0.9005, 3)}, _RESAMPLING)["o"]["la"]["dice"]
    assert "equivalent" in close["verdict"]
    assert close["p_equivalent"] < 0.05
    wide = paired_metrics(_scores(0.9, 2, spread=0.2), {"o": _scores(0.9, 2, spread=0.25)}, _RESAMPLING)["o"]["la"][
        "dice"
    ]
    assert wide["verdict"] == "open"
    assert wide["p_equivalent"] > 0.05


def test_equivalent_is_an_interval_of_95_percent_within_the_margin() -> None:
    """Shifts between the bounds of the 90 % and the 95 % interval are not: the protocol's rule, and what readers see."""
    seen = set()
    for shift in np.arange(0.0, 0.02, 0.0005):
        arms = _scores(0.9 - shift, 3, spread=0.02), _scores(0.9, 3, spread=0.024)
        found = paired_metrics(arms[0], {"o": arms[1]}, _RESAMPLING)["o"]["la"]["dice"]
        low, high = found["ci95"]
        within = low > -0.01 and high < 0.01
        assert ("equivalent" in found["verdict"]) == within == (found["p_equivalent"] < 0.025)
        assert ("non-inferior" in found["verdict"]) == (low > -0.01 and not within and "better" not in found["verdict"])
        seen.add((within, found["p_equivalent"] < 0.05))
    assert seen == {(True, True), (False, True), (False, False)}


def _rows_with_lv(atria: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([atria, atria.assign(structure="lv_endo", dice=0.9)], ignore_index=True)


@pytest.mark.parametrize("trainings", [1, 2])
def test_images_that_only_one_arm_scores_are_not_paired(trainings: int) -> None:
    """Reference and prediction without a structure: no score; the baseline's false positive there has one, of 0."""
    ours = _scores(0.9, trainings).query("structure == 'la'")
    theirs = ours.copy()
    absent = ours["case"].str.slice(1).astype(int) % 2 == 1
    ours.loc[absent, "dice"], theirs.loc[absent, "dice"] = float("nan"), 0.0
    found = paired_metrics(ours, {"other": theirs}, _RESAMPLING)["other"]["la"]["dice"]
    assert found["mean"] == pytest.approx(0, abs=1e-12)
    assert (found["n_images"], found["of_images"], found["n_patients"], found["of_patients"]) == (30, 60, 30, 30)
    assert found["share"] == pytest.approx(1)  # of the baseline's Dice on the same images, not on all
    everywhere = {"lv_endo": {"dice": found | {"n_images": 60}}, "la": {"dice": found}}
    told = summary({"paired_baselines": {"other": everywhere}})
    assert "is compared: Left atrium 30 of 60 images, 30 of 30 patients." in told
    pair = {"c": _rows_with_lv(ours), "b": _rows_with_lv(theirs)}
    cells = comparison_rows(compare_cells({"x": ("c", "b")}, pair, _RESAMPLING))
    assert cells[1][-2].endswith("(30 of 60 images, 30 of 30 patients)")
    assert found["p"] == pytest.approx(1)
    assert found["p_noninferior"] < 1e-3
    assert found["p_equivalent"] < 1e-3


def test_a_family_is_one_metric() -> None:
    """Holm over structures and baselines of one metric: with equal p the factor is the number of tests."""
    others = {name: _scores(0.9 - 0.0002 * k) for k, name in enumerate("abc")}
    found = paired_metrics(_scores(0.9), others, _RESAMPLING)
    for metric in METRICS:
        family = [structures[s][metric] for structures in found.values() for s in ("lv_endo", "la")]
        p = np.array([d["p"] for d in family])
        assert min(d["p_holm"] for d in family) == pytest.approx(min(1, 6 * p.min()))


def test_other_cases_are_refused() -> None:
    with pytest.raises(DataError, match="holds other cases"):
        paired_metrics(_scores(0.9), {"o": _scores(0.9).query("case != 'c0'")}, _RESAMPLING)
    lacking = _scores(0.9, 2).query("case != 'c0' or segmenter_seed == 0")
    with pytest.raises(DataError, match="holds other cases"):
        paired_metrics(lacking, {"o": _scores(0.9)}, _RESAMPLING)


def test_seeds_in_names(tmp_path: Path) -> None:
    for name in ("gen0_seg1", "gen1_seg1", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"patient0001_2CH_ED{ENDING}").write_bytes(b"")
    crossed = find_trainings([tmp_path / "gen0_seg1", tmp_path / "gen1_seg1"])
    assert [(t.generator_seed, t.segmenter_seed) for t in crossed] == [(0, 1), (1, 1)]
    independent = find_trainings([tmp_path])
    assert [(t.generator_seed, t.segmenter_seed) for t in independent] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(DataError, match="not a folder"):
        find_trainings([tmp_path / "nowhere"])


def _volumes(shift: float, empty: int = 0, trainings: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    truth = rng.uniform(25, 70, 40)
    tables = []
    for t in range(trainings):
        ef = truth + shift + rng.normal(0, 2, 40)
        ef[:empty] = np.nan
        columns = {
            "patient": [f"p{i}" for i in range(40)],
            "convention": "camus",
            "segmenter_seed": t,
            "generator_seed": 0,
        }
        table = pd.DataFrame(columns | {"ef_percent": ef, "ef_percent_reference": truth, "ef_cfg": truth + 1})
        for m in ("edv_ml", "esv_ml"):
            table = table.assign(**{m: 2 * table["ef_percent"], f"{m}_reference": 2 * truth})
        tables += [table, table.assign(convention="clinical")]
    return pd.concat(tables, ignore_index=True)


def _lengths(table: pd.DataFrame) -> pd.DataFrame:
    of_one = {"patient": table["patient"], "view": table["convention"], "phase": "ED"}
    of_one |= {name: table[name] for name in ("segmenter_seed", "generator_seed")}
    length = np.where(table["ef_percent"].isna(), np.nan, 80.0)
    return pd.DataFrame(of_one | {"length_mm": length, "length_reference_mm": 100.0})


def test_volumes_have_intervals_and_count_the_patients_they_lack() -> None:
    table = _volumes(-5, empty=3)
    found = volume_metrics(table, _lengths(table), _RESAMPLING)
    ef = found["ef_percent"]
    assert (found["patients"], found["patients_without_volume"], ef["n"]) == (40, 3, 37)
    assert ef["bias"] == pytest.approx(-5, abs=1)
    assert ef["bias_ci95"][0] < ef["bias"] < ef["bias_ci95"][1] < -4
    assert ef["mae_ci95"][0] < ef["mae"] < ef["mae_ci95"][1]
    assert np.sum(found["ef_classes"]["table"]) == 37
    assert found["long_axis_ratio"]["median"] == pytest.approx(0.8)
    assert found["long_axis_ratio"]["below_085"] == found["long_axis_ratio"]["n"] == 74


def test_volumes_of_arms_are_compared() -> None:
    found = paired_volumes(_volumes(-5, 2, 3), {"real": _volumes(0, 0, 3)}, _RESAMPLING)["real"]["ef_percent"]
    assert found["bias"]["mean"] == pytest.approx(-5, abs=0.7)
    assert found["bias"]["verdict"] == "different"
    assert found["bias"]["n_patients"] == 38
    told = summary({"paired_volumes": {"real": {"ef_percent": found}}})
    assert "is compared: EF, % 38 of 40 patients." in told
    assert found["mae"]["verdict"] == "worse"
    same = paired_volumes(_volumes(0, 0, 3), {"real": _volumes(0.2, 0, 3)}, _RESAMPLING)["real"]["ef_percent"]["bias"]
    assert same["margin"] == 3
    assert "equivalent" in same["verdict"]


def _one_fails(table: pd.DataFrame) -> pd.DataFrame:
    """The last training finds no cavity."""
    last = table["segmenter_seed"] == table["segmenter_seed"].max()
    return table.assign(**{m: table[m].where(~last) for m in ("edv_ml", "esv_ml", "ef_percent")})


def test_a_training_that_finds_no_cavity_leaves_no_estimate_and_is_told() -> None:
    """The mean of the two that found one is no mean of three trainings."""
    table = _one_fails(_volumes(-5, trainings=3))
    found = volume_metrics(table, _lengths(table), _RESAMPLING)
    ef = found["ef_percent"]
    assert {name: ef[name] for name in ("bias", "mae", "r", "icc")} == dict.fromkeys(("bias", "mae", "r", "icc"))  # type: ignore[literal-required]
    assert ef["loa"] == ef["mae_ci95"] == [None, None]
    assert found["ef_classes"]["kappa"] is None
    paired = paired_volumes(table, {"real": _volumes(0, trainings=3)}, _RESAMPLING)
    bias = paired["real"]["ef_percent"]["bias"]
    assert (bias["mean"], bias["p"], bias["trainings"], bias["verdict"]) == (None, None, [2, 3], "open")
    told = summary({"volumes": found, "paired_volumes": paired})
    assert told.count("No estimate is given where a training has no value") == 2
    assert told.count("EF, % (1)") == 2
    assert "counted by the others" not in told
    headline = of_evaluation("e", {"volumes": found})
    assert headline is not None
    assert headline.lines == (("Ejection fraction", "No estimate: 1 of the trainings found no cavity in any patient."),)


def test_intervals_end_where_the_metric_does() -> None:
    """Of two trainings one fails: by Student's t with one degree of freedom the interval would reach beyond 1, and below 0."""
    table = _scores(0.9, 2).assign(empty_prediction=False)
    failed = table["segmenter_seed"] == 1
    table = table.assign(dice=table["dice"].where(~failed, 0.2), hd_mm=table["hd_mm"].where(~failed, 300.0))
    found = statistics.segmentation_metrics(table, _RESAMPLING)
    assert found["la"]["dice"]["ci95"] == [0, 1]  # type: ignore[index]
    assert found["la"]["hd_mm"]["ci95"][0] == 0  # type: ignore[index]
    assert found["la"]["dice"]["df"] == pytest.approx(1, abs=0.01)  # type: ignore[index]
    paired = paired_metrics(table, {"o": _scores(0.9)}, _RESAMPLING)
    assert paired["o"]["la"]["dice"]["ci95"] == [-1, 1]
    assert paired["o"]["la"]["dice"]["share_ci95"][0] == 0
    told = summary({"segmentation": found, "paired_baselines": paired})
    assert told.count("(fewer than 2 degrees of freedom)") == 2
    whole = statistics.segmentation_metrics(_scores(0.9, 3).assign(empty_prediction=False), _RESAMPLING)
    assert "degrees of freedom)" not in summary({"segmentation": whole})
    volumes = _volumes(0, trainings=2)
    shifted = volumes.assign(ef_percent=volumes["ef_percent"] - 40 * volumes["segmenter_seed"])
    ef = volume_metrics(shifted, _lengths(shifted), _RESAMPLING)["ef_percent"]
    assert ef["mae_ci95"][0] == 0 > ef["bias_ci95"][0]


def test_no_case_that_all_score_is_no_difference() -> None:
    """Each side has scores, of other images."""
    ours = _scores(0.9, 2)
    even = ours["case"].str.slice(1).astype(int) % 2 == 0
    theirs = ours.assign(dice=ours["dice"].where(even))
    found = paired_metrics(ours.assign(dice=ours["dice"].where(~even)), {"o": theirs}, _RESAMPLING)["o"]["la"]["dice"]
    assert (found["mean"], found["p"], found["n_images"], found["ci95"]) == (None, None, 0, [None, None])
    assert "trainings_without_value" not in found


def test_classes_of_ef_and_of_age() -> None:
    classes = statistics.ef_class(np.array([20, 40, 40.4, 40.6, 49, 49.6, 70, np.nan]))
    assert classes == ["40 and below"] * 3 + ["41 to 49"] * 2 + ["50 and above"] * 2 + [None]
    table = statistics.with_groups(pd.DataFrame({"age": [30, 60, 69, 85, None], "ef": [30, 45, 60, None, 50]}))
    assert table["age_group"].isna().tolist() == [False] * 4 + [True]
    assert table["age_group"].tolist()[:4] == ["below 60", "60 to 69", "60 to 69", "80 and above"]


def test_failures_are_counted() -> None:
    table = pd.DataFrame(
        {
            "structure": "la",
            "components": [1, 2, 0],
            "hd_mm": [3.0, 10.5, 300.0],
            "empty_prediction": [False, False, True],
        }
    )
    assert statistics.failure_rates(table)["la"] == {"islands": 1, "hd_above_10mm": 2, "empty": 1, "n_predictions": 3}


def test_weighted_kappa_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 3, 80), rng.integers(0, 3, 80)
    table = np.bincount(3 * a + b, minlength=9).reshape(3, 3)
    assert weighted_kappa(table) == pytest.approx(cohen_kappa_score(a, b, weights="linear"))
    assert weighted_kappa(np.diag([3, 4, 5])) == 1


def test_icc_of_published_data() -> None:
    """Shrout & Fleiss (1979), judges 1 and 4 of their six targets: by the formula of ICC(2,1) from the mean squares."""
    x, y = np.array([9, 6, 8, 7, 10, 6.0]), np.array([8, 2, 6, 6, 9, 4.0])
    subjects = np.stack([x, y], 1)
    between = 2 * subjects.mean(1).var(ddof=1)
    judges = 6 * subjects.mean(0).var(ddof=1)
    error = ((x - y) - (x - y).mean()).var() * 6 / 2 / 5
    expected = (between - error) / (between + error + 2 * (judges - error) / 6)
    assert intraclass_correlation(x, y) == pytest.approx(expected)
    assert intraclass_correlation(x, x) == pytest.approx(1)
    assert intraclass_correlation(x, x + 3) < 0.7  # agreement, not correlation


def _views(probability: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    patients = [f"p{i // 4}" for i in range(len(truth))]
    return pd.DataFrame(
        {"patient": patients, "view": np.where(truth == 1, "4CH", "2CH"), "probability_4CH": probability}
    )


def test_perfect_views_are_not_certain() -> None:
    truth = np.tile([0, 1], 40)
    found = classification_metrics(_views(np.where(truth == 1, 0.9, 0.1), truth), _RESAMPLING)
    for name in ("accuracy", "auroc", "f1"):
        low, high = found[name]["ci95"]  # type: ignore[literal-required]
        assert found[name]["mean"] == 1  # type: ignore[literal-required]
        assert low == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)  # Wilson's bound of 20 of 20 patients
        assert high == 1
    assert found["calibration_error"]["ci95"] == [None, None]
    assert found["calibration_slope"]["mean"] is None  # the classes are apart: no slope


def test_a_slope_that_many_resamples_lack_has_no_interval() -> None:
    """One wrong pair of twenty patients: a resample without it, (19/20)^20 = 36 % of them, has an infinite slope."""
    truth = np.tile([0, 1], 20)
    probability = np.where(truth == 1, 0.9, 0.1) + np.linspace(-0.05, 0.05, 40)
    probability[:2] = 0.6, 0.4
    table = _views(probability, truth).assign(patient=[f"p{i // 2}" for i in range(40)])
    found = classification_metrics(table, _RESAMPLING)
    assert found["calibration_slope"]["mean"] is not None
    assert found["calibration_slope"]["ci95"] == [None, None]
    assert "slope has no interval" in summary({"classification": found})
    assert None not in found["brier"]["ci95"]
    rng = np.random.default_rng(9)
    noisy = 1 / (1 + np.exp(-rng.normal(truth - 0.5, 1)))
    usual = classification_metrics(table.assign(probability_4CH=noisy), _RESAMPLING)
    assert None not in usual["calibration_slope"]["ci95"]
    assert "slope has no interval" not in summary({"classification": usual})


def test_calibration_slope_of_what_is_overconfident() -> None:
    """Truth drawn from half the claimed logit, plus 1: slope 0.5; shifted by 1 at slope 1: intercept 1."""
    rng = np.random.default_rng(4)
    logit = rng.normal(0, 2, 20_000)
    claimed = 1 / (1 + np.exp(-logit))
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit + 1)))).astype(int)
    assert classification.calibration_slope(truth, claimed) == pytest.approx(0.5, abs=0.03)
    shifted = (rng.random(20_000) < 1 / (1 + np.exp(-(logit + 1)))).astype(int)
    assert classification.calibration_intercept(shifted, claimed) == pytest.approx(1, abs=0.06)
    assert classification.calibration_slope(shifted, claimed) == pytest.approx(1, abs=0.06)
