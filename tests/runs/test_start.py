"""Where a training may start or go on: never in two processes, over a foreign folder, or with other settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from echo_synth.claims import claim, lock_in
from echo_synth.errors import ExistsError, HeldError, RunError
from echo_synth.files import write_json
from echo_synth.runs.data import TrainingData, training_data_of, write_training_data
from echo_synth.runs.description import describe_vae
from echo_synth.runs.folder import DESCRIPTION, FORMER, READER, STATE, STUDY_FILES, WEIGHTS, open_run
from echo_synth.runs.progress import progress_of
from echo_synth.runs.start import (
    RunRequest,
    check_identity,
    choose_run_folder,
    drop_former,
    hold_run_folder,
    start_run,
    unfinished_runs,
)
from echo_synth.runs.tensors import save_tensors

STEM = "gamma-vae-64_tiny_Dataset501_CAMUS"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    return tmp_path / "runs"


def put_run(folder: Path, step: int, images: int = 8, command: str = "train-vae", weights: bool = True) -> Path:
    """A run folder as a training of batch 4 leaves it after `step` steps."""
    folder.mkdir(parents=True)
    header = {"step": step, "validated_step": step, "best": {}, "identity": {"images": images, "batch": 4}, "seed": 0}
    save_tensors(folder / STATE, {"model.w": torch.zeros(1)}, header)
    write_json(folder / DESCRIPTION, describe_vae("gamma-vae-64", "tiny").as_json())
    write_json(folder / "settings.json", {"command": command})
    if weights:
        save_tensors(folder / WEIGHTS, {"w": torch.zeros(1)})
    return folder


def _request(out: Path | None = None, **options: bool) -> RunRequest:
    return RunRequest("train-vae", STEM, out, **options)


def test_new_runs_are_numbered_and_made(runs: Path) -> None:
    assert choose_run_folder(_request()) == runs / f"{STEM}_01"
    assert not runs.exists()
    with hold_run_folder(_request()) as first, hold_run_folder(_request()) as second:
        assert [first.name[-2:], second.name[-2:]] == ["01", "02"]
    assert not list(runs.iterdir())  # nothing was saved in them


def test_a_folder_in_which_nothing_was_saved_is_used_again(runs: Path) -> None:
    (runs / f"{STEM}_03").mkdir(parents=True)
    (runs / f"{STEM}_²").mkdir()  # a digit, but no number
    write_json(runs / f"{STEM}_03" / DESCRIPTION, {})
    (runs / f"{STEM}_03" / ".partial-7-model.json").touch()
    with hold_run_folder(_request()) as folder:
        assert folder.name.endswith("_03")
        assert not list(folder.glob(".partial*"))


def test_a_held_folder_is_refused_and_named(runs: Path) -> None:
    folder = put_run(runs / "a", 1)
    with (
        claim(lock_in(folder)),
        pytest.raises(HeldError, match="a: in use by process"),
        hold_run_folder(_request(folder, resume=True)),
    ):
        pass


@pytest.mark.parametrize(
    ("step", "options", "told"),
    [(1, {}, "pass --resume to continue it, --overwrite"), (2, {}, "--resume to continue it")],
)
def test_a_run_is_not_replaced_unasked(runs: Path, step: int, options: dict[str, bool], told: str) -> None:
    folder = put_run(runs / "a", step)
    with pytest.raises(ExistsError, match=told):
        choose_run_folder(_request(folder, **options))


def test_only_the_same_command_replaces_a_run(runs: Path) -> None:
    imported = put_run(runs / "paper", 2, command="import-edmlx")
    with pytest.raises(ExistsError, match="made by 'echosynth import-edmlx'"):
        choose_run_folder(_request(imported, overwrite=True))
    assert choose_run_folder(_request(put_run(runs / "own", 2), overwrite=True)).name == "own"


def test_a_folder_of_other_things_is_never_used(runs: Path) -> None:
    (runs / "photos").mkdir(parents=True)
    (runs / "photos" / "cat.jpg").touch()
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ExistsError, match="holds other files and no run"):
            choose_run_folder(_request(runs / "photos", **options))


@pytest.mark.parametrize(
    "names",
    [("history.csv", "tensorboard/events"), ("model.json", "samples/cat.jpg"), ("settings.json",), ("averages/1",)],
)
def test_files_of_other_programs_that_are_called_like_ours_stay(runs: Path, names: tuple[str, ...]) -> None:
    """A training replaces history.csv, model.json, settings.json, samples/, tensorboard/, averages/ and finish/ of its folder."""
    folder = runs / "of-another-program"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"mine": true}')
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ExistsError, match="holds other files and no run; choose another --out"):
            choose_run_folder(_request(folder, **options))


def test_what_a_killed_start_leaves_is_no_other_program(runs: Path) -> None:
    """model.json comes first, then settings.json and the marker, then history.csv and what else a training writes."""
    folder = runs / "begun"
    folder.mkdir(parents=True)
    write_json(folder / DESCRIPTION, describe_vae("gamma-vae-64", "tiny").as_json())
    assert choose_run_folder(_request(folder)) == folder
    write_json(folder / "settings.json", {"command": "train-vae"})
    (folder / "history.csv").touch()
    assert choose_run_folder(_request(folder)) == folder
    (folder / DESCRIPTION).write_text("damaged")
    assert choose_run_folder(_request(folder)) == folder


def test_weights_without_a_state_cannot_go_on(runs: Path) -> None:
    folder = put_run(runs / "a", 2)
    (folder / STATE).unlink()
    with pytest.raises(RunError, match=r"holds weights and no state\.safetensors"):
        choose_run_folder(_request(folder, resume=True))


def test_resuming_takes_the_unfinished_run(runs: Path) -> None:
    with pytest.raises(RunError, match="no run named"):
        choose_run_folder(_request(resume=True))
    unfinished = put_run(runs / f"{STEM}_01", 1)
    finished = put_run(runs / f"{STEM}_02", 2)
    assert choose_run_folder(_request(resume=True)) == unfinished
    assert list(unfinished_runs(STEM)) == [unfinished]
    assert str(progress_of(unfinished)) == "unfinished: 4 of 8 images"
    with claim(lock_in(unfinished)):  # it is being trained
        assert choose_run_folder(_request(resume=True)) == finished


def test_a_run_can_be_lengthened_and_nothing_else_changes(runs: Path) -> None:
    folder = put_run(runs / "a", 2, images=8)
    check_identity(folder, {"images": 16, "batch": 4, "seed": 0})
    with pytest.raises(RunError, match="started with images = 8, asked to resume with 4"):
        check_identity(folder, {"images": 4, "batch": 4, "seed": 0})
    with pytest.raises(RunError, match="started with batch = 4, asked to resume with 2"):
        check_identity(folder, {"images": 16, "batch": 2, "seed": 0})


def test_what_an_identity_names_only_where_it_is_on_is_compared_both_ways(runs: Path) -> None:
    """A base model begun with --soft-maps and resumed without it would learn other maps from there on."""
    plain, soft = put_run(runs / "plain", 2), put_run(runs / "soft", 2)
    header = {"step": 2, "identity": {"images": 8, "soft_maps": True, "latent_channels": 4}, "seed": 0}
    save_tensors(soft / STATE, {"model.w": torch.zeros(1)}, header)
    on = {"images": 8, "soft_maps": True, "latent_channels": 4}
    check_identity(soft, on)
    check_identity(plain, {"images": 8})
    for key, told in (
        ("soft_maps", "soft_maps = True, asked to resume with False"),
        ("latent_channels", "= 4, .* with 1"),
    ):
        with pytest.raises(RunError, match=told):
            check_identity(soft, {name: value for name, value in on.items() if name != key})
    with pytest.raises(RunError, match="soft_maps = False, asked to resume with True"):
        check_identity(plain, {"images": 8, "soft_maps": True})


def test_what_belongs_to_the_former_weights_goes_with_them(tmp_path: Path) -> None:
    folder, description = put_run(tmp_path / "run", step=2), describe_vae("gamma-vae-64", "tiny")
    for name in (READER, *STUDY_FILES):
        (folder / name).write_text("of the former weights")
    start_run(folder, description, {"command": "train-vae"}, {}, resume=False)
    assert not [name for name in (READER, *STUDY_FILES) if (folder / name).exists()]
    assert (folder / FORMER / "solvers.json").is_file()


def test_a_run_knows_the_patients_of_those_that_it_began_with(tmp_path: Path) -> None:
    def ran(name: str, *patients: str, source: str = "unknown", inherited: tuple[str, ...] = ()) -> Path:
        (tmp_path / name).mkdir()
        write_training_data(tmp_path / name, TrainingData(name, "x", patients, (), source, inherited=inherited))
        return tmp_path / name

    vae = ran("vae", "p1", "p2", inherited=("p0",))
    foreign = ran("phantom", "p7", source="simulated")
    own = TrainingData("d", "x", ("p1",), ("p3",), "camus").after([vae, foreign, tmp_path / "imported"])
    assert own.inherited == ("p0", "p2")
    assert set(own.patients) == {"p0", "p1", "p2", "p3"}
    ran("child")
    write_training_data(tmp_path / "child", own)
    assert training_data_of(tmp_path / "child") == own


@pytest.mark.parametrize("train", ["patient0001", {"patient0001": 1}, None, 5])
def test_patients_that_are_no_list_are_refused(tmp_path: Path, train: object) -> None:
    """A text would fall apart into letters, and no held-out patient be found among them."""
    write_json(tmp_path / "data.json", {"dataset": "d", "fingerprint": "f", "train": train, "val": []})
    with pytest.raises(RunError, match=r"data\.json: expected dataset, fingerprint, train and val"):
        training_data_of(tmp_path)


def test_a_state_that_lies_is_named(runs: Path) -> None:
    folder = put_run(runs / "a", 1)
    whole = {"identity": {"images": 8, "batch": 4}, "step": 1, "validated_step": 1}
    lies = [whole | {"step": n, "validated_step": n} for n in (float("inf"), float("nan"), -1)]
    lies += [whole | {"identity": {"images": 8, "batch": 0}}, whole | {"identity": {"images": -8, "batch": 4}}]
    for metadata in ([], {"identity": []}, {"identity": {"images": "x"}, "step": 1}, *lies):
        save_tensors(folder / STATE, {"w": torch.zeros(1)}, metadata)  # type: ignore[arg-type]
        with pytest.raises(RunError, match=r"state\.safetensors"):
            progress_of(folder)


def test_a_finished_run_waits_until_its_successor_has_finished(tmp_path: Path) -> None:
    """--overwrite that is killed has lost nothing, and a second one keeps what was finished, not what was begun."""
    folder, description = put_run(tmp_path / "run", step=2), describe_vae("gamma-vae-64", "tiny")
    whole = (folder / WEIGHTS).read_bytes()
    start_run(folder, description, {"command": "train-vae"}, {}, resume=False)
    assert not (folder / WEIGHTS).exists()
    assert progress_of(folder) is None
    save_tensors(folder / STATE, {}, {"step": 1, "validated_step": 0, "identity": {"images": 8, "batch": 4}})
    save_tensors(folder / WEIGHTS, {"w": torch.ones(1)})
    start_run(folder, description, {"command": "train-vae"}, {}, resume=False)
    assert (folder / FORMER / WEIGHTS).read_bytes() == whole
    assert open_run(folder / FORMER).description == description
    drop_former(folder)
    assert not (folder / FORMER).exists()
