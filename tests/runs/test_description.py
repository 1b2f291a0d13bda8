"""model.json: what echosynth writes is read back byte for byte, anything else is refused before it is built."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from echo_synth import specs
from echo_synth.errors import DataError, RunError
from echo_synth.evaluation.latent_prior import read_prior
from echo_synth.files import write_json
from echo_synth.runs.description import (
    Description,
    build_model,
    describe_classifier,
    describe_diffusion,
    describe_vae,
    parse_description,
)
from echo_synth.runs.folder import open_run
from echo_synth.runs.loading import load_model

BUNDLED = specs.root() / "bundled"
WRITTEN: dict[str, Description] = {
    "vae": describe_vae("gamma-vae-64", "tiny"),
    "diffusion": describe_diffusion("edm-l64", "tiny", "0123456789abcdef"),
    "classifier": describe_classifier("tf_efficientnetv2_s", 64, ("2CH", "4CH")),
}


@pytest.mark.parametrize("file", sorted(BUNDLED.glob("*/model.json")), ids=lambda f: f.parent.name)
def test_existing_files_stay_as_they_are(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert json.dumps(parse_description(json.loads(text), "x").as_json(), indent=2) + "\n" == text


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_is_read_back(kind: str) -> None:
    written = WRITTEN[kind].model_copy(update={"trained_on": "Dataset501_CAMUS"})
    data = json.loads(json.dumps(written.as_json()))
    assert list(data)[-1] == "trained_on"
    assert parse_description(data, "x") == written


def _edited(kind: str, **changes: Any) -> dict[str, Any]:
    """A written file with changes; `network__x` names a key inside "network"."""
    data = copy.deepcopy(WRITTEN[kind].as_json())
    for name, value in changes.items():
        inside, _, key = name.rpartition("__")
        (data[inside] if inside else data)[key] = value
    return data


FOREIGN = {
    "a pickle for timm": (
        _edited("classifier", network__checkpoint_path="w.pth"),
        "unknown key 'network.checkpoint_path'",
    ),
    "weights from the network": (_edited("classifier", network__pretrained=True), "unknown key 'network.pretrained'"),
    "a hub": (_edited("classifier", architecture="hf-hub:timm/resnet18"), "architecture"),
    "an address": (_edited("classifier", architecture="https://example.org/w"), "architecture"),
    "a folder": (_edited("classifier", architecture="local-dir:/tmp"), "architecture"),
    "classes without outputs": (_edited("classifier", classes=["2CH"]), "1 classes, but a network with 2"),
    "a huge network": (_edited("diffusion", network__channels=10**7), "network.channels"),
    "a wide level": (_edited("diffusion", network__channel_mult=[1, 2, 4000]), "a level of 64000 channels"),
    "no channels": (_edited("diffusion", network__channels=-1), "network.channels"),
    "text for a number": (_edited("diffusion", network__blocks="1"), "network.blocks"),
    "truth for a number": (_edited("diffusion", network__blocks=True), "network.blocks"),
    "another precond": (_edited("diffusion", precond="x"), "precond"),
    "unknown arguments": (_edited("diffusion", precond_arguments={"x": 1.0}), "no argument 'x'"),
    "many levels": (_edited("diffusion", precond="iddpm", precond_arguments={"levels": 10**9}), "levels is 1000000000"),
    "another resolution": (_edited("diffusion", resolution=32), "a network of 64 px in a model of 32 px"),
    "another number of classes": (_edited("diffusion", network__classes=3), "3 semantic classes, expected 10"),
    "a path for a hash": (_edited("diffusion", vae="../x"), "vae"),
    "a prior of NaN": (_edited("vae", network__alpha_prior=float("nan")), "network.alpha_prior"),
    "an infinite prior": (_edited("vae", network__beta_prior=float("inf")), "network.beta_prior"),
    "groups that do not divide": (_edited("vae", network__norm_groups=3), "do not divide into 3 groups"),
    "another grid": (_edited("vae", latent_resolution=32), "do not make latents of 32 px"),
    "large images": (_edited("vae", resolution=4096, latent_resolution=1024), "resolution.*less than or equal to 512"),
    "large pictures": (_edited("classifier", resolution=4000), "resolution.*less than or equal to 512"),
    "a name with a path": (_edited("vae", model="../x"), "model"),
    "a missing key": ({k: v for k, v in _edited("vae").items() if k != "size"}, "key 'size' is missing"),
    "a list": ([], "holds a list"),
    "no kind": ({}, "kind None"),
    "a list for a kind": ({"kind": ["vae"]}, "kind a list"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files_are_refused_by_what_is_wrong(what: str) -> None:
    data, message = FOREIGN[what]
    with pytest.raises(RunError, match=f"run/model.json: .*{message}"):
        parse_description(data, "run/model.json")


def _copy(folder: Path, name: str = "gamma-vae-64") -> Path:
    run = folder / "run"
    run.mkdir()
    for file in (BUNDLED / name).iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    return run


def test_a_pickle_beside_a_classifier_is_not_opened(tmp_path: Path) -> None:
    class Executes:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"state_dict": Executes()}))
    write_json(tmp_path / "model.json", _edited("classifier", network__checkpoint_path=str(tmp_path / "w.pth")))
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"unknown key 'network\.checkpoint_path'"):
        open_run(tmp_path, "classifier").load()
    assert not (tmp_path / "executed").exists()


def test_a_network_larger_than_its_file_is_not_made(tmp_path: Path) -> None:
    """600 GB by its model.json: refused by the weights' header, on the meta device."""
    run = _copy(tmp_path)
    data = json.loads((run / "model.json").read_text())
    data["network"] |= {"channels": [4096, 4096], "blocks": 16}
    write_json(run / "model.json", data)
    with pytest.raises(RunError, match="does not fit this network"):
        open_run(run, "vae").load()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    run = _copy(tmp_path)
    tensors = load_file(run / "model.safetensors")
    tensors["decoder.0.weight"].view(-1)[0] = value
    save_file(tensors, run / "model.safetensors")
    with pytest.raises(RunError, match=r"decoder\.0\.weight holds values that are not finite"):
        open_run(run, "vae").load()


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    run = _copy(tmp_path)
    tensors = load_file(run / "model.safetensors")
    save_file(tensors | {"decoder.0.bias": tensors["decoder.0.bias"].to(torch.int32)}, run / "model.safetensors")
    with pytest.raises(RunError, match=r"decoder\.0\.bias is of type I32, expected floating point numbers"):
        open_run(run, "vae").load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"alpha": 1e999, "beta": 1}', "1e999 is too large"),
        ('{"alpha": "nan", "beta": 1}', "expected numbers"),
        ('{"alpha": true, "beta": 1}', "expected numbers"),
        ('{"alpha": 1, "beta": -1}', "beta is -1"),
        ("[1, 2]", "expected numbers"),
        ('{"alpha": NaN, "beta": 1}', "NaN is no number"),
    ],
)
def test_priors_that_are_no_priors_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gamma_prior.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_prior(tmp_path / "gamma_prior.json")


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Everything that a network computes with: parameters, buffers, and tensors that are neither."""
    held = {}
    for name, part in module.named_modules():
        for values in (vars(part), part._parameters, part._buffers):
            held |= {f"{name}.{key}": value for key, value in values.items() if isinstance(value, torch.Tensor)}
    return held


@pytest.mark.parametrize("name", [*specs.DIFFUSION_MODELS, *specs.VAE_MODELS, "classifier"])
def test_a_loaded_network_is_the_one_that_was_saved(name: str, tmp_path: Path) -> None:
    """It is built without numbers: nothing may be left without them."""
    if name == "classifier":
        description: Description = describe_classifier("tf_efficientnetv2_s", 64, ("2CH", "4CH"))
    elif name in specs.VAE_MODELS:
        description = describe_vae(name, "tiny")
    else:
        description = describe_diffusion(name, "tiny", None)
    saved = build_model(description, 3)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    before, after = _tensors(saved), _tensors(load_model(description, tmp_path / "w.safetensors"))
    assert before.keys() == after.keys()
    assert all(after[k].device == v.device and torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.slow
def test_loading_a_network_does_not_import_compilers() -> None:
    """Some functions do on the meta device: seconds, and hundreds of modules."""
    code = "import sys; from echo_synth.runs.find import bundled_run; bundled_run('edm-l64').load(); print('sympy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
