"""What `--solver auto` follows: searched levels at their NFE, else the nearest solver; all of it part of a dataset's identity."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from torch import Tensor

from cli import generate_commands, measure_commands
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import open_maps
from echo_synth.diffusion.preconditioning import build_precond
from echo_synth.errors import DataError, ExistsError, SpecError
from echo_synth.evaluation.level_search import maps_apart, schedules
from echo_synth.generation.engine import SamplerSettings, default_settings
from echo_synth.generation.known_levels import start_of
from echo_synth.generation.solver_choice import SolverChoice, choose_solver, read_study
from echo_synth.runs.folder import DiffusionRun, open_run
from echo_synth.sampling import sample
from tests.cli.reports import printed

BUNDLED = specs.root() / "bundled"


def _study(folder: Path, schedule: object) -> DiffusionRun:
    content = {"recommended": {"10": "unipc"}, "converged_nfe": 101, "schedules": {"4": schedule}}
    folder.mkdir(exist_ok=True)
    (folder / "solvers.json").write_text(json.dumps(content))
    return DiffusionRun(folder, open_run(BUNDLED / "edm-l64", "diffusion").description)


def test_searched_levels_are_used_at_their_nfe_alone(tmp_path: Path) -> None:
    run = _study(tmp_path, {"solver": "dpmpp-2m", "sigmas": [17.2, 2.36, 0.525, 0.053]})
    choice = choose_solver(run, "auto", 4, {})
    assert choice == SolverChoice("dpmpp-2m", (17.2, 2.36, 0.525, 0.053))
    assert choice.shown() == "17.2 2.36 0.525 0.053"
    assert choose_solver(run, "auto", 5, {}) == SolverChoice("unipc")
    assert choose_solver(run, "dpmpp-2m", 4, {}) == SolverChoice("dpmpp-2m")


def test_a_start_that_is_asked_for_replaces_searched_levels(tmp_path: Path) -> None:
    run = _study(tmp_path, {"solver": "dpmpp-2m", "sigmas": [17.2, 2.36, 0.525, 0.053]})
    assert choose_solver(run, "auto", 4, {}, 20.0) == SolverChoice("dpmpp-2m")
    assert choose_solver(run, "heun", 4, {}, 20.0) == SolverChoice("heun")


def test_a_start_above_the_levels_of_the_network_is_refused(tmp_path: Path) -> None:
    run = _study(tmp_path, {"solver": "dpmpp-2m", "sigmas": [17.2, 2.36, 0.525, 0.053]})
    ve = _of("ve", run)
    assert choose_solver(ve, "heun", 4, {}, 100.0) == SolverChoice("heun")
    with pytest.raises(SpecError, match=rf"--sigma-max 101: .*{tmp_path.name} knows noise levels up to 100"):
        choose_solver(ve, "heun", 4, {}, 101.0)
    assert choose_solver(run, "heun", 4, {}, 1000.0) == SolverChoice("heun")  # EDM's has no upper end


def _of(precond: str, run: DiffusionRun) -> DiffusionRun:
    """`run` as if its network were of another formulation."""
    other = run.description.model_copy(update={"precond": precond, "precond_arguments": {}})
    return DiffusionRun(run.folder, other)


def _levels_met(precond: str, settings: SamplerSettings) -> list[float]:
    met: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        met.append(float(sigma))
        return torch.zeros_like(x)

    law = build_precond(precond)
    known = (law.sigma_min, law.sigma_max)
    sample(denoise, torch.ones(1, 1, 2, 2), **asdict(settings), round_sigma=law.round_sigma, net_sigmas=known)
    return met


@pytest.mark.parametrize("asked", [5.0, 80.0, 100.0, 600.0])
@pytest.mark.parametrize("precond", ["edm", "vp", "ve", "iddpm"])
def test_sampling_starts_where_it_is_asked_to_and_that_is_recorded(precond: str, asked: float, tmp_path: Path) -> None:
    if asked > build_precond(precond).sigma_max:
        pytest.skip("above the network's levels")
    start = start_of(_of(precond, _study(tmp_path, {"solver": "euler", "sigmas": [4.0, 3.0, 2.0, 1.0]})), asked)
    met = _levels_met(precond, default_settings(precond, 5, "dpmpp-2m", sigma_max=start))
    assert met[0] == pytest.approx(start, rel=1e-6)
    assert met == sorted(met, reverse=True)
    # Of the 1000 levels of iDDPM the nearest, not the next below: 91.66 and 106.94 are the neighbours of 100.
    assert start == pytest.approx(
        {80.0: 80.2, 100.0: 106.94, 600.0: 641.7}.get(asked, asked) if precond == "iddpm" else asked, rel=3e-3
    )


@pytest.mark.parametrize("precond", ["edm", "vp", "ve", "iddpm"])
def test_sampling_starts_high_where_nothing_is_asked_for(precond: str) -> None:
    assert _levels_met(precond, default_settings(precond, 5, "dpmpp-2m"))[0] >= 79


def test_more_steps_than_the_network_has_levels_are_refused(tmp_path: Path) -> None:
    sdm = _of("iddpm", _study(tmp_path, {"solver": "euler", "sigmas": [4.0, 3.0, 2.0, 1.0]}))
    assert choose_solver(sdm, "dpmpp-2m", 600, {}) == SolverChoice("dpmpp-2m")
    assert choose_solver(sdm, "euler", 600, {}, 1.0) == SolverChoice("euler")  # which may meet a level twice
    with pytest.raises(SpecError, match=r"--nfe 600, --solver dpmpp-2m, --sigma-max 1: .*only 496 exist; use fewer"):
        choose_solver(sdm, "dpmpp-2m", 600, {}, 1.0)


def test_auto_takes_heun_where_the_studied_solver_has_not_enough_levels(tmp_path: Path) -> None:
    sdm = _of("iddpm", _study(tmp_path, {"solver": "euler", "sigmas": [4.0, 3.0, 2.0, 1.0]}))
    assert choose_solver(sdm, "auto", 900, {}) == SolverChoice("unipc")
    assert choose_solver(sdm, "auto", 1000, {}) == SolverChoice("heun")  # the paper's number for SDM
    with pytest.raises(SpecError, match="--solver unipc"):
        choose_solver(sdm, "unipc", 1000, {})


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ({"solver": "heun", "sigmas": [9.0, 1.0, 0.5, 0.1]}, "4 noise levels for heun at 4 NFE, expected 3"),
        ({"solver": "euler", "sigmas": [9.0, 1.0, 1.0, 0.1]}, "do not fall"),
        ({"solver": "euler", "sigmas": [9.0, 1.0, 0.5, -0.1]}, "greater than 0"),
        ({"solver": "foo", "sigmas": [9.0]}, "solver"),
    ],
)
def test_levels_that_no_search_wrote_are_named(tmp_path: Path, schedule: object, why: str) -> None:
    run = _study(tmp_path, schedule)
    with pytest.raises(DataError, match=rf"solvers\.json.*{why}.*study-solvers"):
        choose_solver(run, "auto", 4, {})


def test_a_study_of_other_weights_is_not_followed(tmp_path: Path) -> None:
    run = _study(tmp_path / "run", {"solver": "dpmpp-2m", "sigmas": [17.2, 2.36, 0.525, 0.053]})
    shutil.copy2(BUNDLED / "edm-l64" / "model.safetensors", run.folder)
    study = json.loads((run.folder / "solvers.json").read_text())
    (run.folder / "solvers.json").write_text(json.dumps(study | {"weights": run.hash()}))
    assert choose_solver(run, "auto", 4, {}).sigmas
    (run.folder / "solvers.json").write_text(json.dumps(study | {"weights": "0123456789abcdef"}))
    with pytest.raises(SpecError, match=r"solvers\.json: was measured on other weights .*repeat study-solvers"):
        choose_solver(run, "auto", 4, {})
    assert choose_solver(run, "heun", 4, {}) == SolverChoice("heun")


def test_the_nearest_is_kept_and_never_one_that_loses_to_defaults() -> None:
    rows = [
        ("unipc", 4, "default", "80.0 5.0 0.1 0.002", 0.2),
        ("unipc", 4, "searched", "20.0 3.0 0.5 0.05", 0.1),
        ("euler", 4, "default", "80.0 5.0 0.1 0.002", 0.15),
        ("unipc", 6, "default", "9.0 8.0 7.0 6.0 5.0 4.0", 0.05),
        ("unipc", 6, "searched", "8.0 7.0 6.0 5.0 4.0 3.0", 0.06),
    ]
    table = pd.DataFrame(rows, columns=["solver", "nfe", "levels", "sigmas", "rmse"])
    kept = {"solver": "unipc", "sigmas": [20.0, 3.0, 0.5, 0.05], "rmse": 0.1, "rmse_default": 0.15}
    assert schedules(table) == {"4": kept}  # at 6 NFE the search's levels lose where they are judged


def test_levels_are_searched_and_judged_on_maps_of_different_patients(home: Path) -> None:
    folder = open_maps(home / "maps/Dataset501_PHANTOM")
    index = folder.index[folder.index["split"] == "train"]
    searched, judged = maps_apart(folder, 3)
    assert len(searched[0]) == len(judged[0]) == 3

    def patients(tissues: object) -> set[str]:
        return {
            str(p)
            for p, m in zip(index["patient"], index["map"], strict=True)
            for t in tissues
            if (folder.read(m) == t).all()
        }  # type: ignore[attr-defined]

    assert patients(searched[0])
    assert patients(judged[0])
    assert not patients(searched[0]) & patients(judged[0])


@pytest.mark.slow
def test_a_search_is_followed_and_recorded_and_a_resume_asks_for_the_same_levels(
    own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(BUNDLED / "edm-l64", run)
    vae = BUNDLED / "gamma-vae-64"
    with pytest.raises(typer.BadParameter, match="none from 2 to 12"):
        measure_commands.study_solvers("edm-l64", run, vae, nfe="20", search=True)
    asked = {"nfe": "2", "search": True, "count": 2, "converged": 41, "device": "cpu", "as_json": True}
    measure_commands.study_solvers("edm-l64", run, vae, **asked)  # type: ignore[arg-type]
    told = printed(capsys, "study-solvers", run)
    distances = told.pop("distances")
    assert told == json.loads((run / "solvers.json").read_text())
    assert {row["solver"] for row in distances} == set(pd.read_csv(run / "solvers.csv")["solver"])
    table = pd.read_csv(run / "schedules.csv")
    least = table.groupby("levels")["rmse"].min()
    choice = read_study(run / "solvers.json").choice(2)
    kept = json.loads((run / "solvers.json").read_text())["schedules"]["2"]
    assert kept["rmse"] == pytest.approx(least.min(), rel=1e-4)
    assert kept["rmse"] < kept["rmse_default"] == pytest.approx(least["default"], rel=1e-4)
    asked = {"nfe": 2, "checkpoint": run, "vae": vae, "count": 2, "device": "cpu", "precision": "fp32"}
    generate_commands.generate("edm-l64", dataset_id=601, **asked)  # type: ignore[arg-type]
    raw = nnunet_raw.find(601).path
    manifest = pd.read_parquet(raw / "manifest.parquet")
    assert set(manifest["sigmas"]) == {choice.shown()}
    identity = json.loads((raw / "settings.json").read_text())["identity"]
    assert (identity["solver"], identity["sigmas"]) == (choice.solver, choice.shown())
    (run / "solvers.json").unlink()
    with pytest.raises(ExistsError, match=r"was made with (solver|sigmas) = "):
        generate_commands.generate("edm-l64", dataset_id=601, solver=choice.solver, **asked)  # type: ignore[arg-type]
