"""What a sweep takes from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from echo_synth import specs
from echo_synth.experiment.inputs import find_inputs
from echo_synth.experiment.spec import SweepSpec
from echo_synth.files import write_json
from tests.experiment.sweeps import GRID


def test_auto_is_settled_before_the_sweep_and_a_study_changes_auto_only(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "edm-l64"
    shutil.copytree(specs.root() / "bundled/edm-l64", run)
    rows = {
        "edm-l64": {"nfe": [20], "checkpoint": str(run)},
        "fixed": {"model": "edm-l64", "nfe": [20], "solver": "euler", "checkpoint": str(run)},
    }
    spec = SweepSpec.model_validate(GRID | {"models": rows})
    before = find_inputs(spec)
    assert before.solvers == {("edm-l64", 20): "unipc", ("fixed", 20): "euler"}
    write_json(run / "solvers.json", {"recommended": {"20": "heun"}})
    after = find_inputs(spec)
    assert after.solvers == {("edm-l64", 20): "heun", ("fixed", 20): "euler"}
    assert after.fingerprints == before.fingerprints
    assert '"half_resolution": false' in before.fingerprints["trainer"]
