"""Starting from another run's weights: exactly, by level at another resolution, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.train_commands import train
from echo_synth import specs
from echo_synth.errors import RunError
from echo_synth.files import write_json
from echo_synth.runs.description import build_model, describe_diffusion
from echo_synth.runs.folder import DESCRIPTION, WEIGHTS, DiffusionRun, open_run
from echo_synth.runs.tensors import save_tensors
from echo_synth.training.transfer import start_from


def _run(folder: Path, model: str, size: str = "tiny") -> tuple[DiffusionRun, dict[str, torch.Tensor]]:
    description = describe_diffusion(model, size, None)
    weights = build_model(description, seed=7).state_dict()
    folder.mkdir()
    write_json(folder / DESCRIPTION, description.as_json())
    save_tensors(folder / WEIGHTS, weights)
    return open_run(folder, "diffusion"), weights


def test_the_same_model_takes_every_weight(tmp_path: Path) -> None:
    run, weights = _run(tmp_path / "run", "edm-l64")
    module = build_model(run.description, seed=1)
    assert start_from(module, run.description, run) == 1.0
    assert all(torch.equal(v, weights[k]) for k, v in module.state_dict().items())


def test_a_finer_model_takes_what_has_the_same_level(tmp_path: Path) -> None:
    run, weights = _run(tmp_path / "run", "edm-l64")
    description = describe_diffusion("edm-l128", "tiny", None)
    module = build_model(description, seed=1)
    assert start_from(module, description, run) == 1.0
    finer = {"128x128": "64x64", "64x64": "32x32", "32x32": "16x16"}
    for name, value in module.named_parameters():
        side = next((s for s in finer if f".{s}_" in name), None)
        source = name.replace(f".{side}_", f".{finer[side]}_") if side else name
        assert torch.equal(value, weights[source]), name


def test_what_has_no_counterpart_keeps_its_own_start(tmp_path: Path) -> None:
    run, _ = _run(tmp_path / "run", "edm-l128")
    description = describe_diffusion("edm-l64", "tiny", None)
    module, untouched = build_model(description, seed=1), build_model(description, seed=1)
    share = start_from(module, description, run)
    kept = [k for k, v in module.named_parameters() if "_block" in k and (".qkv." in k or ".norm2." in k)]
    assert kept  # attention at 16 px, which the finer network does not have there
    assert 0.5 < share < 1
    assert all(torch.equal(module.state_dict()[k], untouched.state_dict()[k]) for k in kept)


@pytest.mark.parametrize(
    ("model", "size", "told"),
    [
        ("edm-l64", "small", "another size"),
        ("edm-l128", "small", "only 0%"),
        ("edm", "tiny", "only 2%"),
        ("ve", "tiny", "its precond is edm, ve has ve"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, model: str, size: str, told: str) -> None:
    run, _ = _run(tmp_path / "run", "edm-l64")
    description = describe_diffusion(model, size, None)
    with pytest.raises(RunError, match=told):
        start_from(build_model(description), description, run)


@pytest.mark.parametrize("dry_run", [True, False])
def test_weights_that_do_not_fit_are_refused_before_any_work(own_home: Path, tmp_path: Path, dry_run: bool) -> None:
    run, _ = _run(tmp_path / "small", "edm-l64", "small")
    with pytest.raises(RunError, match="another size"):
        train("edm-l64", 501, vae=specs.root() / "bundled" / "gamma-vae-64", images=8, init=run.folder, dry_run=dry_run)
    assert not (own_home / "prepared").exists()
    assert not any((own_home / "runs").glob("*/model.json"))
