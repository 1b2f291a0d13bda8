"""What a sweep takes from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.errors import LeakageError, RunError, SpecError
from echo_synth.experiment.inputs import check_sizes, find_inputs
from echo_synth.experiment.measured import Machine, Throughput
from echo_synth.experiment.spec import SweepSpec
from echo_synth.files import read_json, write_json
from echo_synth.runs.data import TrainingData, write_training_data
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
    assert '"network": "planned"' in before.fingerprints["trainer"]
    assert "optimizer" not in before.fingerprints["trainer"]  # Adam: its stages keep their names of version 0.1


def _spec_with_maps(maps: Path) -> SweepSpec:
    return SweepSpec.model_validate(GRID | {"maps": str(maps), "models": {"edm-l64": {"nfe": [1]}}})


def test_maps_of_another_dataset_may_not_show_who_is_held_out_here(home: Path, tmp_path: Path) -> None:
    """They say nothing of this dataset's test patients: their own list names others."""
    other = tmp_path / "maps"
    shutil.copytree(home / "maps" / "Dataset501_PHANTOM", other)
    held_out = nnunet_raw.test_patients(nnunet_raw.find(501))
    victim = sorted(held_out)[0]
    index = pd.read_parquet(other / "index.parquet")
    first = index["patient"].iloc[0]
    renamed = index["source_case"].str.replace(first, victim, regex=False)
    index.assign(patient=index["patient"].replace(first, victim), source_case=renamed).to_parquet(
        other / "index.parquet"
    )
    write_json(other / "held_out.json", ["patient9999"])
    with pytest.raises(LeakageError, match=f"{victim}.*\n.*make-maps --dataset-id 501"):
        find_inputs(_spec_with_maps(other))


def test_weights_that_saw_held_out_patients_are_refused(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(specs.root() / "bundled/edm-l64", run)
    real = nnunet_raw.find(501)
    other = real.path.parent / "Dataset777_OTHER"
    other.mkdir()
    cases = real.cases()
    spec = SweepSpec.model_validate(GRID | {"models": {"edm-l64": {"nfe": [1], "checkpoint": str(run)}}})

    def trained_on(name: str | None) -> None:
        write_json(run / "model.json", read_json(run / "model.json") | {"trained_on": name})

    try:
        cases.assign(split="train").to_csv(other / "cases.csv", index=False)
        trained_on(other.name)
        with pytest.raises(LeakageError, match="training data of"):
            find_inputs(spec)
        cases[cases["split"] == "train"].to_csv(other / "cases.csv", index=False)
        find_inputs(spec)
        said: list[str] = []
        trained_on("Dataset778_ELSEWHERE")
        find_inputs(spec, said.append)
        assert "cannot be checked" in said[0]
        trained_on(real.name)  # of the same name, split otherwise at the time: the run's own record counts
        held_out = min(nnunet_raw.test_patients(real))
        write_training_data(run, TrainingData(real.name, "", (held_out,), ()))
        with pytest.raises(LeakageError, match=held_out):
            find_inputs(spec)
    finally:
        shutil.rmtree(other)


def test_real_data_may_not_have_an_id_that_sweeps_use(home: Path) -> None:
    with pytest.raises(SpecError, match="real: 601: sweeps give this id to images of their own"):
        find_inputs(SweepSpec.model_validate(GRID | {"real": 601}))


def test_it_says_when_the_weights_are_the_bundled_ones(home: Path) -> None:
    said: list[str] = []
    find_inputs(SweepSpec.model_validate(GRID | {"models": {"edm-l64": {"nfe": [1]}}}), said.append)
    assert any(line.endswith(", the bundled weights, trained on simulated patients") for line in said)


def test_where_weights_are_missing_a_benchmark_is_named(home: Path) -> None:
    with pytest.raises(RunError, match=r"no run of edm-l128 .*\n.*--dry-run --benchmark DIR"):
        find_inputs(SweepSpec.model_validate(GRID | {"models": {"edm-l128": {"nfe": [1]}}}))


def test_a_benchmark_of_another_size_is_refused(home: Path) -> None:
    """Seconds of size paper were shown as those of a network of size tiny."""
    inputs = find_inputs(SweepSpec.model_validate(GRID | {"models": {"edm-l64": {"nfe": [1]}}}))
    for size in ("tiny", None):
        check_sizes(inputs, Throughput(Path("b"), Machine(size=size), {}))
    with pytest.raises(
        SpecError, match=r"--benchmark b: measured size paper, models.edm-l64 draws with size tiny; .*--size tiny"
    ):
        check_sizes(inputs, Throughput(Path("b"), Machine(size="paper"), {}))
