"""Files that are read and written by every room: bounds of JSON, and messages that name what may not be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echo_synth import files
from echo_synth.errors import DataError, RunError, SpecError
from echo_synth.files import disk_error, listed, read_json, read_short, write_json
from echo_synth.folders import maker
from echo_synth.home import nnunet_folder
from echo_synth.runs.tensors import load_tensors
from echo_synth.specs import validate


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files and folders put into the list may not be read, entered or listed, whoever runs the test."""
    closed: list[Path] = []
    access, names = os.access, os.listdir

    def may(path: Path, mode: int) -> bool:
        return Path(path) not in closed and access(path, mode)

    def names_in(path: Path) -> list[str]:
        if path in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return names(path)

    monkeypatch.setattr(files.os, "access", may)
    monkeypatch.setattr(files.os, "listdir", names_in)
    return closed


def test_what_may_not_be_read_is_not_called_a_problem_of_writing(tmp_path: Path, forbid: list[Path]) -> None:
    (tmp_path / "data/patient0001").mkdir(parents=True)
    image = tmp_path / "data/patient0001/image.nii.gz"
    error = PermissionError(13, "Permission denied", str(image))
    forbid.append(tmp_path / "data")
    assert str(disk_error(error, image)) == f"{tmp_path}/data: no permission to enter this folder; change its rights"
    forbid[:] = [image]
    image.touch()
    assert "no permission to read it" in str(disk_error(error, image))
    forbid.clear()
    assert "no permission to write" in str(disk_error(error, image))


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, forbid: list[Path]) -> None:
    for name in ("b.png", "a.png", ".c.png", "d.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in listed(tmp_path, "*.png")] == ["a.png", "b.png"]
    assert listed(tmp_path / "none", "*.png") == []
    forbid.append(tmp_path)
    with pytest.raises(DataError, match="no permission to read it"):
        listed(tmp_path, "*.png")


def test_weights_that_may_not_be_read_are_not_called_missing(tmp_path: Path, forbid: list[Path]) -> None:
    with pytest.raises(RunError, match="missing"):
        load_tensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").touch()
    forbid.append(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="no permission to read it"):
        load_tensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("text", ["[" + "1," * 300_000 + "1]", '"' + "a" * 5_000_000 + '"'])
def test_json_of_hundreds_of_thousands_of_values_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(DataError, match="no such file of ours is that long"):
        read_json(tmp_path / "settings.json")


def test_of_very_many_wrong_values_the_number_is_told() -> None:
    with pytest.raises(SpecError, match="content: is none of ours \\(found '5000 wrong values'\\)"):
        validate(list[int], ["x"] * 5000, "file")


def test_a_number_that_becomes_infinity_is_refused(tmp_path: Path) -> None:
    for text in ("1e999", "-1e999", "NaN", "Infinity"):
        (tmp_path / "settings.json").write_text(f'{{"a": [1.5, {text}]}}')
        with pytest.raises(DataError, match=r"settings\.json: not readable as JSON"):
            read_json(tmp_path / "settings.json")


def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.json")
    with pytest.raises(DataError, match=r"settings\.json: cannot be read \(not a regular file\)"):
        read_json(tmp_path / "settings.json")
    with pytest.raises(DataError, match=r"settings\.json: cannot be read \(not a regular file\)"):
        read_short(tmp_path / "settings.json", 10, "a list")
    assert maker(tmp_path) is None
    with pytest.raises(DataError, match="Is a directory"):
        read_json(tmp_path)


def test_what_a_shell_hands_over_is_read(tmp_path: Path) -> None:
    """--spec <(COMMAND) is a pipe below /dev/fd."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b'{"a": 1}')
        os.close(writing)
        assert read_json(Path(f"/dev/fd/{reading}")) == {"a": 1}
    finally:
        os.close(reading)


def test_paths_that_are_not_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    path = os.fsdecode(b"/data/caf\xe9")
    write_json(tmp_path / "settings.json", {"out": path})
    assert read_json(tmp_path / "settings.json") == {"out": path}
    (tmp_path / "settings.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("variable", ["ECHOSYNTH_HOME", "nnUNet_raw"])
def test_a_home_whose_name_is_not_utf8_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As such paths are on the command line; pyarrow, for one, cannot write there."""
    monkeypatch.setenv(variable, "/data/with space/é")
    assert str(nnunet_folder("nnUNet_raw")).startswith("/data/with space/é")
    monkeypatch.setenv(variable, os.fsdecode(b"/data/caf\xe9"))
    with pytest.raises(DataError, match=rf"{variable}: /data/caf\\udce9 is not a name in UTF-8"):
        nnunet_folder("nnUNet_raw")
