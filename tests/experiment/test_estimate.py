"""What a sweep will take: more for more work, nothing for what is done, and what its own stages took where that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_synth.downstream.classifier import ClassifierSettings
from echo_synth.estimate import Estimate
from echo_synth.experiment.estimate import SweepEstimator
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.sweep import Sweep, plan_sweep
from echo_synth.files import write_json
from tests.experiment.sweeps import GRID

pytestmark = pytest.mark.slow

ALONE = {"cells": {}, "reference": None, "classifier": None, "models": {"edm-l64": {"nfe": [4]}}}


def _planned(changes: dict[str, object], out: Path) -> tuple[Sweep, SweepEstimator]:
    spec = SweepSpec.model_validate(GRID | ALONE | changes)
    planned = plan_sweep(spec, out, None, "cpu", lambda line: None)
    return planned, SweepEstimator(spec, planned.inputs, planned.workspace, "cpu")


def test_more_images_and_longer_trainings_take_longer(home: Path, tmp_path: Path) -> None:
    def seconds(changes: dict[str, object]) -> float:
        planned, estimator = _planned(changes, tmp_path)
        return estimator.of(planned.chosen).seconds

    drawing = seconds({"segmenter": None})
    assert seconds({"segmenter": None, "count": 8000}) > 10 * drawing
    short = {"trainer": "nnUNetTrainerEchoSynth_cpu", "epochs": 1}
    assert seconds({"segmenter": short | {"epochs": 40}}) > seconds({"segmenter": short}) + 600
    own = {"real": {"kind": "real"}, "longer": {"kind": "real", "patients": 2, "epochs": 41}}
    alike = own | {"longer": {"kind": "real", "patients": 2}}
    assert seconds({"segmenter": short, "cells": own}) > seconds({"segmenter": short, "cells": alike}) + 600
    assert seconds({"segmenter": {"trainer": "nnUNetTrainerEchoSynth"}}) > 86400  # the paper's, on a CPU
    alone = {"segmenter": None, "cells": {"real": {"kind": "real"}}, "reference": "real"}
    none, few, many = (seconds(alone | {"quality": q}) for q in (None, {"count": 20}, {"count": 1000}))
    assert none < few < many - 600


def test_what_is_done_takes_nothing_and_tells_what_the_rest_takes(home: Path, tmp_path: Path) -> None:
    planned, estimator = _planned({"seeds": [0, 1]}, tmp_path)
    before = estimator.of(planned.chosen)
    first, second = planned.cells
    for stage in first.stages:
        planned.workspace.folder(stage).mkdir(parents=True)
        write_json(planned.workspace.folder(stage) / "done.json", {"seconds": 100.0, "seconds_per_image": None})
    assert estimator.of([first]).seconds == 0
    drawing = estimator.of(planned.chosen).seconds - 3 * 100  # segmenter, predict, evaluate as they went before
    assert 0 < drawing < before.seconds
    assert second.stages[0].kind == "data"


@pytest.mark.parametrize(("count", "small"), [(8, True), (9000, False)])
def test_short_sweeps_are_not_measured(count: int, small: bool, home: Path, tmp_path: Path) -> None:
    planned, estimator = _planned({"segmenter": None, "count": count}, tmp_path)
    assert estimator.is_small(planned.chosen) == small


def test_each_dataset_counts_with_its_own_images(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers took as long as that of the first cell, images without a network no disk, and filtering no time."""

    def trained(settings: ClassifierSettings) -> Estimate:
        return Estimate(float(settings.training.images), 0.0, 0.0)

    monkeypatch.setattr("echo_synth.experiment.estimate.estimate_classifier", trained)
    few, many = ({"kind": "noise", "count": count} for count in (100, 20_000))
    plain: dict[str, object] = {"models": {}, "segmenter": None, "classifier": {"epochs": 1}}

    def of(cells: dict[str, object], changes: dict[str, object] | None = None) -> Estimate:
        planned, estimator = _planned(plain | {"cells": cells} | (changes or {}), tmp_path)
        return estimator.of(planned.chosen)

    both = of({"few": few, "many": many})
    assert both == of({"many": many, "few": few})
    assert both.seconds == pytest.approx(of({"few": few}).seconds + of({"many": many}).seconds)
    assert both.seconds > 20_100
    assert both.disk_bytes > 20_100 * 60_000
    read = {"real": {"kind": "real"}, "many": many, "kept": {"kind": "filtered", "base": "many"}}
    segmenter = {"segmenter": {"trainer": "nnUNetTrainerEchoSynth_cpu"}, "classifier": None, "reference": "real"}
    unread = read | {"kept": {"kind": "mix", "base": "many"}}
    assert of(read, segmenter).seconds > of(unread, segmenter).seconds + 10_000


def test_a_longer_training_takes_longer_than_a_finished_short_one(home: Path, tmp_path: Path) -> None:
    """The mean of those that had ended was taken, whatever their length."""
    cells = {"short": {"kind": "real", "epochs": 1}, "long": {"kind": "real", "epochs": 100}}
    trainer = {"trainer": "nnUNetTrainerEchoSynth_cpu"}
    planned, estimator = _planned({"models": {}, "cells": cells, "segmenter": trainer}, tmp_path)
    short, long = planned.cells
    guessed = estimator.of([long]).seconds
    stage = short.stage("segmenter")
    assert stage is not None
    planned.workspace.folder(stage).mkdir(parents=True)
    write_json(planned.workspace.folder(stage) / "done.json", {"seconds": estimator.of([short]).seconds})
    assert guessed / 2 < estimator.of([long, short]).seconds < 4 * guessed
