"""Which run is used where nobody names one: a finished one, and never silently another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from echo_synth import specs
from echo_synth.errors import RunError
from echo_synth.runs.data import DATA, TrainingData, training_data_of, write_training_data
from echo_synth.runs.description import describe_diffusion
from echo_synth.runs.find import describe_choice, find_run, find_vae, find_vae_of, newest_run
from echo_synth.runs.folder import STATE, WEIGHTS
from echo_synth.runs.tensors import load_weights, save_tensors
from tests.runs.test_start import put_run

BUNDLED_VAE = specs.root() / "bundled" / "gamma-vae-64"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    return tmp_path / "runs"


def test_without_runs_the_bundled_weights(runs: Path) -> None:
    run = find_vae("gamma-vae-64")
    assert "bundled" in str(run.folder)
    assert describe_choice(run) == str(run.folder)


def test_an_unfinished_run_is_not_taken_by_default(runs: Path) -> None:
    put_run(runs / "half", 1)
    with pytest.raises(RunError, match=r"half: the only run .* unfinished: 4 of 8 images; finish it .*--vae"):
        find_run("gamma-vae-64")
    assert find_run("gamma-vae-64", runs / "half").folder.name == "half"  # it can be asked for
    put_run(runs / "whole", 2)
    (runs / "half" / STATE).touch()
    chosen = find_run("gamma-vae-64")
    assert chosen.folder.name == "whole"
    assert describe_choice(chosen).endswith("whole (8 images)")


def test_an_imported_run_has_no_state_and_counts(runs: Path) -> None:
    (put_run(runs / "imported", 2) / STATE).unlink()
    assert newest_run("gamma-vae-64") is not None


def test_a_damaged_neighbour_does_not_matter(runs: Path) -> None:
    put_run(runs / "whole", 2)
    (put_run(runs / "broken", 2) / "model.json").write_text("[]")
    (put_run(runs / "cut", 2) / STATE).write_bytes(b"x")
    run = newest_run("gamma-vae-64")
    assert run is not None
    assert run.folder.name == "whole"


def test_a_neighbour_that_may_not_be_read_does_not_matter(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several people share ECHOSYNTH_HOME, one keeps his weights to himself."""
    private, mine, bundled = put_run(runs / "a", 2) / WEIGHTS, runs / "mine", find_vae("gamma-vae-64", BUNDLED_VAE)
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == private:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    description = describe_diffusion("edm-l64", "tiny", bundled.hash())
    assert find_vae_of(description, "gamma-vae-64", mine).folder == bundled.folder
    with pytest.raises(RunError, match="is in no run folder; pass --vae"):
        find_vae_of(describe_diffusion("edm-l64", "tiny", "0" * 16), "gamma-vae-64", mine)


def test_the_patients_of_a_run_are_on_record(tmp_path: Path) -> None:
    assert training_data_of(tmp_path) is None
    data = TrainingData("Dataset501_CAMUS", "abc", ("patient0001",), ("patient0002",))
    write_training_data(tmp_path, data)
    assert training_data_of(tmp_path) == data
    assert data.patients == ("patient0001", "patient0002")
    for content in ("[]", '{"dataset": "a", "fingerprint": "b", "train": [1], "val": []}', '{"dataset": 3}'):
        (tmp_path / DATA).write_text(content)
        with pytest.raises(RunError, match=r"data\.json"):
            training_data_of(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        save_tensors(tmp_path / "w.safetensors", {"weight": torch.full((1, 1), value), "bias": torch.zeros(1)})
        with pytest.raises(RunError, match="weight holds values that are not finite"):
            load_weights(torch.nn.Linear(1, 1), tmp_path / "w.safetensors")


def test_very_many_patients_are_read_back(tmp_path: Path) -> None:
    """Of images whose names tell no patient each counts as one."""
    data = TrainingData(
        "Dataset601_Imported", "abc", tuple(f"foreign{i:06d}" for i in range(300_000)), ("foreign300000",)
    )
    write_training_data(tmp_path, data)
    assert training_data_of(tmp_path) == data
