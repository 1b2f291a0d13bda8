"""The bill of a sweep: counted against the preset read by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from cli import main as entry
from echo_synth import specs
from echo_synth.errors import SpecError
from echo_synth.experiment.cost import DOCUMENTED, Fleet
from echo_synth.experiment.measured import read_throughput
from echo_synth.experiment.spec import read_sweep
from echo_synth.experiment.sweep_cost import plan_cells, price_sweep
from echo_synth.files import write_json
from tests.experiment.benchmarks import seconds, write

MODELS = ("sdm", "ve", "vp", "edm", "edm-l128", "edm-l64")


@pytest.mark.parametrize(("name", "datasets"), [("paper", 24), ("paper-grid", 43)])
def test_the_papers_presets_have_its_datasets(tmp_path: Path, name: str, datasets: int) -> None:
    spec = read_sweep(Path(name))
    cells = plan_cells(spec, None)
    throughput = read_throughput(write(tmp_path, MODELS, (5, 20)))
    cost = price_sweep(spec, cells, throughput, Fleet("gpu", 1, 1, 3.0), tmp_path / "none")
    grid = yaml.safe_load((specs.root() / f"presets/sweeps/{name}.yaml").read_text())["models"]
    assert set(grid) == set(MODELS)
    assert cost.datasets == datasets == sum(len(row["nfe"]) for row in grid.values())
    drawing = [p for p in cost.parts if p.name.startswith("datasets of")]
    expected = sum(9000 * seconds(n) for row in grid.values() for n in row["nfe"]) / 3600
    assert sum(p.hours for p in drawing) == pytest.approx(expected)
    assert sum(p.bytes for p in drawing) == datasets * 9000 * DOCUMENTED.image_bytes
    trained = {p.name: p.count for p in cost.parts if not p.name.startswith("datasets")}
    assert trained == dict.fromkeys(("segmenters", "view classifiers", "predictions", "evaluations"), datasets + 3)
    assert cost.money == pytest.approx(3 * cost.hours)


def test_paper_is_a_part_of_the_grid() -> None:
    part, whole = ({c.name for c in plan_cells(read_sweep(Path(n)), None)} for n in ("paper", "paper-grid"))
    assert part < whole


def test_stages_that_have_ended_tell_how_long_the_rest_takes(tmp_path: Path) -> None:
    spec = read_sweep(Path("paper"))
    for name, took in (("segmenter-a", 3600.0), ("segmenter-b", 7200.0), ("classifier-c", None)):
        write_json(tmp_path / "sweep/work" / name / "done.json", {"seconds": took})
    throughput = read_throughput(write(tmp_path, MODELS))
    cost = price_sweep(spec, plan_cells(spec, None), throughput, Fleet("gpu", 1), tmp_path / "sweep")
    parts = {p.name: p for p in cost.parts}
    assert parts["segmenters"].hours == pytest.approx(27 * 1.5)
    assert parts["segmenters"].known == "as 2 of this sweep took"
    assert "guess" in parts["view classifiers"].known
    assert cost.money is None


def test_what_has_ended_counts_by_its_length(tmp_path: Path) -> None:
    """A trial of two epochs in the same folder promised 250 epochs in the time of two."""
    spec = read_sweep(Path("paper"))
    throughput = read_throughput(write(tmp_path, MODELS))
    trainer = "nnUNetTrainerEchoSynth"

    def hours(**config: object) -> float:
        write_json(tmp_path / "sweep/work/segmenter-a/done.json", {"seconds": 3600.0, "config": config})
        cost = price_sweep(spec, plan_cells(spec, None), throughput, Fleet("gpu", 1), tmp_path / "sweep")
        return next(p.hours for p in cost.parts if p.name == "segmenters")

    whole = hours(trainer=trainer, epochs=spec.segmenter.epochs if spec.segmenter else None)
    assert whole == pytest.approx(27)
    assert hours(trainer=trainer, epochs=1) > 50 * whole
    assert hours(trainer="nnUNetTrainerGone") == pytest.approx(27)


def test_guesses_are_core_hours_however_many_cores_a_process_has(tmp_path: Path) -> None:
    """They were those of two cores, counted as of one or of sixteen."""
    spec = read_sweep(Path("paper"))
    machine = {"accelerator": "cpu", "device": "a CPU"}

    def core_hours(cores: int) -> dict[str, float]:
        throughput = read_throughput(write(tmp_path / str(cores), MODELS, threads=cores, **machine))
        cost = price_sweep(spec, plan_cells(spec, None), throughput, Fleet("cpu", cores, cores), tmp_path / "none")
        return {p.name: p.hours * cores for p in cost.parts if not p.name.startswith("datasets of")}

    assert core_hours(1) == pytest.approx(core_hours(16))


def test_only_and_what_the_benchmark_lacks(tmp_path: Path) -> None:
    spec = read_sweep(Path("paper"))
    throughput = read_throughput(write(tmp_path, ("edm-l64",)))
    chosen = plan_cells(spec, ["edm-l64_nfe20_seed0"])
    cost = price_sweep(spec, chosen, throughput, Fleet("gpu", 1), tmp_path)
    assert cost.datasets == 1
    assert {p.name: p.count for p in cost.parts}["segmenters"] == 2  # the reference's too
    with pytest.raises(SpecError, match="--only nobody"):
        plan_cells(spec, ["nobody"])
    with pytest.raises(SpecError, match="has no sdm"):
        price_sweep(spec, plan_cells(spec, None), throughput, Fleet("gpu", 1), tmp_path)


def _run(words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["echosynth", *words.split()])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


def test_a_dry_run_prices_the_paper_without_data_or_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    folder = write(tmp_path / "b", MODELS)
    assert _run(f"sweep paper.yaml --dry-run --benchmark {folder} --price 2.5", monkeypatch) == 0
    shown = capsys.readouterr()
    settings = json.loads(shown.out)
    assert settings["cost"]["datasets"] == 24
    assert settings["cost"]["money"] == pytest.approx(2.5 * settings["cost"]["gpu_hours"])
    assert "24 synthetic datasets" in shown.err
    assert "at 2.5 an hour of a GPU" in shown.err
    assert not (tmp_path / "home").exists()
    assert _run(f"sweep paper.yaml --benchmark {folder}", monkeypatch) == 2
    assert _run("sweep paper.yaml --dry-run --price 2", monkeypatch) == 2
    assert _run(f"sweep paper.yaml --dry-run --benchmark {tmp_path}", monkeypatch) == 1
    assert "echosynth benchmark" in capsys.readouterr().err


def test_status_refuses_a_benchmark_that_lacks_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    folder = write(tmp_path / "b", ("edm",))
    assert _run(f"sweep smoke.yaml --status --benchmark {folder}", monkeypatch) == 1
    assert "--models edm-l64" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("models", ["edm-l64,edm-l64", "edm-l64,"])
def test_a_benchmark_measures_each_model_once(
    models: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it left of one that is there twice, plan refused."""
    assert _run(f"benchmark --models {models} --dry-run", monkeypatch) == 1
    assert f"--models {models}: expected each model once" in capsys.readouterr().err
