"""data_specs: every file parses, unknown keys are named, the official split is whole."""

from pathlib import Path

import pytest

from echo_synth import specs
from echo_synth.data import splits
from echo_synth.errors import SpecError

MODELS = sorted(p.stem for p in (specs.root() / "presets/models").glob("*.yaml"))


def test_all_models_of_the_paper_are_registered() -> None:
    assert set(MODELS) == {*specs.DIFFUSION_MODELS, *specs.VAE_MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_every_preset_parses_in_every_size(name: str) -> None:
    spec = specs.model(name)
    assert set(specs.SIZES) <= set(spec.sizes) <= {*specs.SIZES, "light"}
    for size in spec.sizes:
        assert specs.training_of(spec, size).images > 0


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown key 'rotation_degree'; did you mean 'rotation_deg'\?"):
        specs.validate(specs.MapSpec, specs.maps().model_dump() | {"rotation_degree": 3}, "maps.yaml")


def test_unknown_key_below_another_is_found() -> None:
    data = specs.labels().model_dump()
    data["tissues"][1]["color"] = [0, 0, 0]
    with pytest.raises(SpecError, match=r"tissues\.1\.color"):
        specs.validate(specs.LabelSpec, data, "labels.yaml")


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'edm-l64'"):
        specs.model("edm-l46")


def test_official_split_is_400_50_50_and_disjoint() -> None:
    split = splits.official_split()
    assert {k: len(v) for k, v in split.items()} == {"train": 400, "val": 50, "test": 50}
    assert len({p for listed in split.values() for p in listed}) == 500


@pytest.mark.parametrize(
    ("text", "message"),
    [("patient0001\npatient0001\n", "listed twice"), ("patient1\n", "not a patient id")],
)
def test_bad_split_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    for file in specs.camus().split_files.values():
        (tmp_path / file).write_text("")
    (tmp_path / "subgroup_training.txt").write_text(text)
    with pytest.raises(SpecError, match=message):
        splits.read_split(tmp_path)


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    for file in specs.camus().split_files.values():
        (tmp_path / file).write_text("patient0007\n")
    with pytest.raises(SpecError, match="patient0007 is listed twice"):
        splits.read_split(tmp_path)
