"""What a sweep will take: more for more work, nothing for what is done, and what its own stages took where that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

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
