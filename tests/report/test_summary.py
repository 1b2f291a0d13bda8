"""The summary on top of a page: what was trained on what, and what came of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest

from echo_synth.evaluation.differences import verdict
from echo_synth.evaluation.trainings import trained_on
from echo_synth.files import write_json
from echo_synth.report.headline import _VERDICTS, of_evaluation, of_quality, of_sweep
from echo_synth.report.page import build
from tests.report.tables import QUALITY, sweep_table


def _estimate(mean: float, **more: object) -> dict[str, object]:
    return {"mean": mean, "ci95": [mean - 0.1, mean + 0.1], "n_images": 40, "n_patients": 12, **more}


EF = {"mae": 4.36, "bias": -2.35, "n": 12}
METRICS = {
    "segmentation": {"lv_endo": {"dice": _estimate(0.8)}, "la": {"dice": _estimate(0.7)}},
    "volumes": {"ef_percent": EF},
    "classification": {"accuracy": _estimate(0.6)},
    "paired_baselines": {
        "real": {"lv_endo": {"dice": _estimate(-0.014, p_holm=0.0003, share=0.985, verdict="worse")}},
        "noise": {"lv_endo": {"dice": _estimate(0.2, verdict="patients alone")}},
    },
    "trainings": {"folders": ["a", "b", "c"]},
    "settings": {"trained_on": {"predictions": "Dataset601 by T", "baselines": {"real": "Dataset501 by T"}}},
}


def test_a_sentence_each() -> None:
    told = of_evaluation("e", METRICS)
    assert told is not None
    assert told.lines == (
        ("Trained", "3 segmenters were trained on Dataset601 by T."),
        (
            "Dice",
            "LV endocardium 0.800 [0.700, 0.900], left atrium 0.700 [0.600, 0.800], on 40 held-out images of 12 patients; "
            "1 is perfect.",
        ),
        ("Ejection fraction", "It is off by 4.4 points on average, and 2.4 points too low, over 12 patients."),
        ("View accuracy", "The view of a share of 0.600 [0.500, 0.700] of the held-out images is recognised."),
        (
            "Against real (Dataset501 by T)",
            "The Dice of the LV endocardium is 0.014 lower (p < 0.001), 98.5% of its Dice: worse.",
        ),
        (
            "Against noise",
            "The Dice of the LV endocardium is 0.200 higher: one training each, so nothing is said of how another training "
            "would differ.",
        ),
    )


def test_what_is_not_there_is_not_told() -> None:
    assert of_evaluation("e", {}) is None
    alone = of_evaluation("e", {"segmentation": METRICS["segmentation"], "settings": {"trained_on": "?"}})
    assert alone is not None
    assert [about for about, _ in alone.lines] == ["Dice", "Against real"]
    assert "Not compared" in alone.lines[-1][1]


def test_every_verdict_has_words() -> None:
    ends = [(-0.005, 0.005), (-0.005, 0.02), (-0.02, 0.02), (None, None)]
    numbers = itertools.product((-0.1, 0.1, None), (0.001, 0.9), ends, ("patients", "both"))
    given = set()
    for mean, p, interval, covers in numbers:
        difference = {"mean": mean, "covers": covers, "margin": 0.01, "ci95": list(interval)}
        given.add(verdict(difference, p, more_is_better=True))  # type: ignore[arg-type]
    assert given == set(_VERDICTS)


def test_a_sweep_and_a_quality() -> None:
    lines = dict(of_sweep("s", sweep_table()).lines)  # type: ignore[union-attr]
    best = sweep_table().query("kind == 'synthetic'").sort_values("dice_lv_endo").iloc[-1]
    real = sweep_table().query("kind == 'real'")["dice_lv_endo"].iloc[0]
    assert lines["Best drawn"].startswith(f"{best['cell']} reaches a Dice of {best['dice_lv_endo']:.3f}")
    assert lines["Against real"].endswith(f"reach {best['dice_lv_endo'] / real:.1%} of that.")
    assert of_sweep("s", pd.DataFrame({"cell": ["a"], "state": ["0/5"]})) is None
    assert of_quality("q", QUALITY).lines[0] == ("Near copies", "1 of 20 drawn images are near a training image.")


def test_the_page_begins_with_it(tmp_path: Path) -> None:
    write_json(tmp_path / "e/metrics.json", {"segmentation": METRICS["segmentation"]})
    page = build(tmp_path)
    assert page.index("<h2>Summary</h2>") < page.index("on 40 held-out images of 12 patients") < page.index("<h2>Eval")
    assert "Summary" not in build(tmp_path / "none")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset": "/x/Dataset601_A", "trainer": "T"}, "Dataset601_A by T"),
        ({"dataset": 5, "trainer": "T"}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_what_an_arm_was_trained_on(settings: object, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    if settings is not None:
        write_json(tmp_path / "settings.json", settings)
    assert trained_on([tmp_path]) == told
