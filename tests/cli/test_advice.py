"""What commands advise: what comes next, and what to do instead of what was refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.data_commands import make_maps, phantom
from cli.main import app
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError, SpecError
from echo_synth.progress import counted


def test_the_phantom_names_a_free_id(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom(tmp_path / "ph", patients=1, workers=1)
    assert "--dataset-id 502 " in capsys.readouterr().out  # 501 is taken


def test_a_missing_dataset_names_what_makes_one(home: Path) -> None:
    with pytest.raises(DataError, match=r"'echosynth generate' for .* --real an id of 'echosynth list datasets'"):
        nnunet_raw.find(601, "--real")


def test_maps_of_a_synthetic_dataset_are_noted(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = nnunet_raw.find(501).path / "dataset.json"
    for kind in (None, "synthetic"):
        if kind:
            file.write_text(json.dumps(json.loads(file.read_text()) | {"echosynth": {"kind": kind}}))
        with pytest.raises(typer.Exit):
            make_maps(501, out=own_home / "new", dry_run=True)
        said = capsys.readouterr().err
        assert ("Dataset501_PHANTOM is synthetic: its labels are condition maps already" in said) is bool(kind)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["generate", "--model", "edm-l65"], "unknown model 'edm-l65', did you mean 'edm-l64'"),
        (["generate", "--model", "edm-l64", "--nfe", "four"], "'four'; Input should be a valid integer"),
        (["generate", "--model", "edm-l64", "--nfe=four"], "'four'; Input should be a valid integer"),
    ],
)
def test_what_was_typed_wrongly_is_shown(words: list[str], expected: str) -> None:
    ended = CliRunner().invoke(app, words)
    assert expected in ended.stderr + str(ended.exception)


def test_only_models_of_the_kind_are_offered() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'edm-l64'\? Known: sdm, ve, vp, edm, edm-l128, edm-l64$"):
        specs.diffusion_model("edm-l46")
    with pytest.raises(SpecError, match=r"Known: gamma-vae-64, gamma-vae-128$"):
        specs.vae_model("gamma-vae")


def test_one_is_not_several() -> None:
    assert [counted(1, "patient"), counted(4, "image")] == ["1 patient", "4 images"]
