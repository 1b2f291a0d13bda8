"""Commands that measure and show models: study-solvers, benchmark, sample-grid, inspect-vae, average-weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import typer

from cli import inspect_commands, measure_commands, train_commands
from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.errors import DataError, RunError
from echo_synth.evaluation import solver_study
from echo_synth.evaluation.held_out_samples import held_out_cases
from echo_synth.generation.engine import ImageGenerator, default_settings, step_noise
from echo_synth.generation.solver_choice import choose_solver, solver_for
from echo_synth.runs.find import find_vae
from echo_synth.runs.folder import DiffusionRun, open_run
from echo_synth.runs.tensors import load_tensors
from echo_synth.sampling import SOLVERS
from echo_synth.types import VIEWS
from tests.cli.reports import printed

pytestmark = pytest.mark.slow

BUNDLED = specs.root() / "bundled"


def _generator(**options: object) -> ImageGenerator:
    return ImageGenerator(
        open_run(BUNDLED / "edm-l64").load(),
        open_run(BUNDLED / "gamma-vae-64").load(),
        "cpu",
        "fp32",
        **options,
    )  # type: ignore[arg-type]


def _maps(count: int) -> tuple[np.ndarray, np.ndarray]:
    folder = open_maps(BUNDLED / "maps")
    used = folder.index.iloc[:count]
    return np.stack([folder.read(n) for n in used["map"]]), np.asarray([VIEWS.index(v) for v in used["view"]], np.uint8)


def test_the_fast_path_changes_rounding_only() -> None:
    tissues, views = _maps(3)
    tissues = np.concatenate([tissues, tissues[:1]])  # two images of one map
    views = np.append(views, views[0])
    settings = default_settings("edm", 5, "heun")
    noise = np.random.default_rng(0).standard_normal((4, 1, 64, 64), np.float32)
    plain = _generator(fast=False).fields(tissues, views, noise, settings)
    for options in ({}, {"modulation_bytes": 2_000_000}, {"modulation_bytes": 0}):
        fast = _generator(**options).fields(tissues, views, noise, settings)
        assert float((fast - plain).abs().max()) < 1e-4


def test_ancestral_noise_depends_on_image_and_step_only() -> None:
    like = torch.empty(2, 1, 4, 4, dtype=torch.float64)
    one, two = step_noise(3, [7, 9], "cpu"), step_noise(3, [9], "cpu")
    first, second = one(like), one(like)
    assert torch.equal(first[1:], two(like[:1]))
    assert torch.equal(second[1:], two(like[:1]))
    assert not torch.equal(first, second)
    tissues, views = _maps(2)
    settings = default_settings("edm", 4, "ddpm")
    pair = _generator().draw(tissues, views, 0, [5, 6], settings)
    alone = _generator().draw(tissues[1:], views[1:], 0, [6], settings)
    assert np.abs(pair[1].astype(int) - alone[0].astype(int)).max() <= 1


def test_more_evaluations_come_nearer_and_the_nearest_is_recommended() -> None:
    tissues, views = _maps(2)
    table = solver_study.study(_generator(), tissues, views, "edm", [8, 20], 65, 0, ("heun", "dpmpp-2m", "unipc"))
    for _, rows in table.groupby("solver"):
        assert rows["rmse"].is_monotonic_decreasing
    assert (table["rmse_low"] <= table["rmse_high"]).all()
    recommended = solver_study.recommend(table)
    assert set(recommended) == {"8", "20"}
    best = table[table["nfe"] == 8].set_index("solver")["rmse"].idxmin()
    assert solver_for({int(n): s for n, s in recommended.items()}, 9) == best == recommended["8"]
    assert solver_study.equal_distance(table, "heun", 20)["heun"] == 20


def test_generate_follows_the_study(home: Path, tmp_path: Path) -> None:
    known = specs.diffusion_model("edm-l64").solvers
    run = open_run(BUNDLED / "edm-l64", "diffusion")
    assert [choose_solver(run, "auto", n, known).solver for n in (8, 20)] == ["dpmpp-2m", "unipc"]
    assert choose_solver(run, "auto", 20, {}).solver == "heun"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "solvers.json").write_text(json.dumps({"recommended": {"10": "unipc", "100": "heun"}}))
    studied = DiffusionRun(folder, run.description)
    assert choose_solver(studied, "auto", 20, known).solver == "unipc"
    assert choose_solver(studied, "auto", 100, known).solver == "heun"
    assert choose_solver(studied, "euler", 20, known).solver == "euler"


@pytest.mark.parametrize("model", specs.DIFFUSION_MODELS)
def test_recommended_solvers_exist(model: str) -> None:
    assert set(specs.diffusion_model(model).solvers.values()) <= set(SOLVERS)


def test_benchmark_writes_a_row_for_each_model_and_nfe(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure_commands.benchmark("edm-l64", "5,10", batch=2, repeats=1, out=tmp_path / "b", measure="whole", as_json=True)
    told = printed(capsys, "benchmark", tmp_path / "b")
    table = pd.read_csv(tmp_path / "b/throughput.csv")
    assert table["nfe"].tolist() == [5, 10]
    assert table["images_per_second"].is_monotonic_decreasing
    assert (table["measured"] > 0).all()
    stages = pd.read_csv(tmp_path / "b/stages.csv")
    assert set(stages["stage"]) == {"modulation", "network", "decode", "write"}
    pd.testing.assert_frame_equal(pd.DataFrame(told["throughput"]), table, check_dtype=False, rtol=1e-5)
    pd.testing.assert_frame_equal(pd.DataFrame(told["stages"]), stages, check_dtype=False, rtol=1e-5)
    assert (tmp_path / "b/throughput.png").is_file()


def test_pictures_of_held_out_maps(home: Path, tmp_path: Path) -> None:
    inspect_commands.sample_grid(
        "edm-l64", 501, tmp_path / "g.png", "2,3", checkpoint=BUNDLED / "edm-l64", count=2, solver="unipc"
    )
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(typer.BadParameter, match="expected positive numbers"):
        inspect_commands.sample_grid("edm-l64", 501, tmp_path / "h.png", "2,x")


@pytest.mark.parametrize(("count", "expected"), [(1, [5]), (2, [5, 9]), (3, [5, 7, 9]), (4, [5, 7, 9])])
def test_a_held_out_case_is_shown_once(count: int, expected: list[int]) -> None:
    cases = SimpleNamespace(rows=lambda _split: np.asarray([5, 7, 9]))
    assert held_out_cases(cases, count).tolist() == expected  # type: ignore[arg-type]


def test_vaes_side_by_side(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_commands.inspect_vae([BUNDLED / "gamma-vae-64"], 501, tmp_path / "v", as_json=True)
    written = json.loads((tmp_path / "v/vae_quality.json").read_text())
    assert printed(capsys, "inspect-vae", tmp_path / "v") == written
    numbers = written["gamma-vae-64"]
    assert numbers["background_max"] == 0
    assert numbers["latent_r"] > 0.8
    assert 15 < numbers["psnr_db"] < 60
    assert 0 < numbers["ssim"] <= 1
    assert {p.name for p in (tmp_path / "v").glob("*.png")} == {"latents.png", "reconstructions.png"}


def test_the_average_can_be_chosen_after_training(home: Path, tmp_path: Path) -> None:
    lengths = {"images": 32, "batch": 8, "copies": 1, "snapshots": 4}
    where = {"out": tmp_path / "run", "device": "cpu", "precision": "fp32"}
    train_commands.train("edm-l64", 501, vae=BUNDLED / "gamma-vae-64", **lengths, **where)
    assert list((tmp_path / "run/samples").glob("*.png"))
    train_commands.average_weights(tmp_path / "run", 0.1, tmp_path / "averaged")
    before, after = (load_tensors(tmp_path / n / "model.safetensors")[0] for n in ("run", "averaged"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    open_run(tmp_path / "averaged", "diffusion").load()


def test_a_twin_is_trained_and_never_taken_for_its_sibling(home: Path, tmp_path: Path) -> None:
    train_commands.train_vae(
        "gamma-vae-64",
        501,
        out=tmp_path / "twin",
        images=8,
        batch=4,
        posterior="gaussian",
        device="cpu",
        precision="fp32",
    )
    run = open_run(tmp_path / "twin", "vae")
    assert run.description.model == "gaussian-vae-64"
    assert find_vae("gamma-vae-64", tmp_path / "twin").folder == run.folder
    with pytest.raises(RunError, match="its latents are 64 px wide, expected 128"):
        find_vae("gamma-vae-128", tmp_path / "twin")
    with pytest.raises(RunError, match="was started with posterior = gaussian"):
        train_commands.train_vae(
            "gamma-vae-64", 501, out=tmp_path / "twin", images=8, batch=4, device="cpu", precision="fp32", resume=True
        )


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"recommended": []}', '{"recommended": {"x": "heun"}}', '{"recommended": {"10": "foo"}}']
)
def test_a_foreign_solvers_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "solvers.json").write_text(content)
    run = DiffusionRun(tmp_path, open_run(BUNDLED / "edm-l64", "diffusion").description)
    with pytest.raises(DataError, match=r"solvers\.json: .*study-solvers"):
        choose_solver(run, "auto", 20, {})
