"""Results are written beside nothing of another command, and replace nothing but their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echo_synth.errors import DataError, ExistsError
from echo_synth.files import write_json
from echo_synth.folders import mark
from echo_synth.outputs import check_results


def _check(folder: Path, overwrite: bool = False) -> None:
    check_results(folder, "quality", ["quality.json", "quality.csv"], overwrite)


def test_a_new_folder_and_one_with_other_files_may_be_used(tmp_path: Path) -> None:
    _check(tmp_path / "new/deep")
    (tmp_path / "notes.txt").touch()
    _check(tmp_path)


def test_own_results_need_overwrite(tmp_path: Path) -> None:
    write_json(tmp_path / "settings.json", {"command": "quality"})
    _check(tmp_path)
    (tmp_path / "quality.csv").touch()
    with pytest.raises(ExistsError, match="pass --overwrite"):
        _check(tmp_path)
    _check(tmp_path, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_settings_of_another_command_stay(tmp_path: Path, overwrite: bool) -> None:
    for name, content in (("run", {"command": "train"}), ("list", ["command"]), ("none", {"a": 1})):
        write_json(tmp_path / name / "settings.json", content)
        with pytest.raises(ExistsError, match="choose another --out"):
            _check(tmp_path / name, overwrite)
    mark_only = tmp_path / "dataset"
    mark_only.mkdir()
    mark(mark_only, "convert-camus")
    with pytest.raises(ExistsError, match="belongs to 'echosynth convert-camus'"):
        _check(mark_only, overwrite)


def test_what_is_no_file_of_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "quality.json").write_text("{}")
    with pytest.raises(ExistsError, match="does not say"):
        _check(tmp_path, overwrite=True)
    write_json(tmp_path / "settings.json", {"command": "quality"})
    _check(tmp_path, overwrite=True)
    makers = {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: os.symlink("/dev/null", path)}
    for name, make in makers.items():
        make(tmp_path / name)
        with pytest.raises(ExistsError, match="never replaced"):
            check_results(tmp_path, "quality", [name], overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        _check(tmp_path / "file")
