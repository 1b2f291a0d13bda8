"""Results are written beside nothing of another command, and replace nothing but their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from echo_synth.errors import DataError, ExistsError
from echo_synth.files import write_json
from echo_synth.folders import mark
from echo_synth.outputs import check_results, new_results

ROOT = Path(__file__).parents[1]


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


FILES = ["quality.json", "quality.csv", "old.png"]


def _write(folder: Path, word: str, files: tuple[str, ...] = ("quality.csv", "quality.json")) -> None:
    with new_results(folder, "quality", FILES) as new:
        for name in files:
            (new / name).write_text(word)


def _content(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file() and p.name != "echosynth.json"}


def test_new_results_replace_the_old_ones_together(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    _write(tmp_path, "old", ("quality.csv", "quality.json", "old.png"))
    _write(tmp_path, "new")
    assert _content(tmp_path) == {"notes.txt": "mine", "quality.csv": "new", "quality.json": "new"}


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ValueError()])
def test_old_results_stay_until_the_new_ones_are_whole(tmp_path: Path, error: BaseException) -> None:
    _write(tmp_path, "old")
    expected = DataError if isinstance(error, OSError) else type(error)

    def interrupted() -> None:
        with new_results(tmp_path, "quality", FILES) as new:
            (new / "quality.csv").write_text("half")
            raise error

    with pytest.raises(expected):
        interrupted()
    assert _content(tmp_path) == {"quality.csv": "old", "quality.json": "old"}


_KILLED = """
import os, signal, sys
from pathlib import Path
from echo_synth.outputs import new_results
calls, seen, real = int(sys.argv[1]), 0, {n: getattr(os, n) for n in ("rename", "replace", "unlink")}
def counted(name):
    def call(*a, **k):
        global seen
        seen += started
        if seen == calls: os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*a, **k)
    return call
started = 0
for name in real: setattr(os, name, counted(name))
with new_results(Path("."), "quality", ["quality.json", "quality.csv", "old.png"]) as new:
    for name in ("quality.csv", "quality.json"): (new / name).write_text("new")
    started = 1
"""


@pytest.mark.parametrize("calls", range(1, 10))
def test_a_kill_at_any_moment_leaves_the_old_results_or_the_new_ones(tmp_path: Path, calls: int) -> None:
    _write(tmp_path, "old", ("quality.csv", "quality.json", "old.png"))
    subprocess.run(
        [sys.executable, "-c", _KILLED, str(calls)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    with pytest.raises(ExistsError, match="pass --overwrite"):
        check_results(tmp_path, "quality", FILES, overwrite=False)
    seen = {name: text for name, text in _content(tmp_path).items() if not name.startswith(".")}
    old, new = dict.fromkeys(FILES, "old"), dict.fromkeys(FILES[:2], "new")
    assert seen in (old, new)
    _write(tmp_path, "last")
    assert _content(tmp_path) == dict.fromkeys(FILES[:2], "last")


def test_a_list_of_names_that_is_none_keeps_what_is_there(tmp_path: Path) -> None:
    write_json(tmp_path / "settings.json", {"command": "quality"})
    (tmp_path / "quality.csv").write_text("old")
    for content in ([["quality.csv"]], 7, {"quality.csv": 1}):
        write_json(tmp_path / ".partial-results" / ".partial-names.json", content)
        _check(tmp_path, overwrite=True)
