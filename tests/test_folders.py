"""Folders that appear together, replace only their own kind, and survive a kill at every rename."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from echo_synth import checksums
from echo_synth.errors import EchoSynthError, ExistsError
from echo_synth.folders import check_target, maker, mark, new_folder, new_folders

ROOT = Path(__file__).parents[1]
# Fills two folders with a word each and dies at the chosen rename of a final or a former folder.
_MAKE = """
import os, signal, sys
from pathlib import Path
from echo_synth.folders import new_folders
word, overwrite, fatal = sys.argv[1], sys.argv[2] == "yes", int(sys.argv[3])
rename, seen = os.rename, 0
def counted(a, b):
    global seen
    seen += 1
    if seen == fatal: os.kill(os.getpid(), signal.SIGKILL)
    rename(a, b)
os.rename = counted
with new_folders([Path("a"), Path("b")], "make-maps", overwrite) as made:
    for folder in made: (folder / "word").write_text(word)
    if fatal == 0: os.kill(os.getpid(), signal.SIGKILL)
"""


def _make(where: Path, word: str, overwrite: bool = False, fatal: int = 99) -> int:
    command = [sys.executable, "-c", _MAKE, word, "yes" if overwrite else "no", str(fatal)]
    result = subprocess.run(
        command, cwd=where, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return result.returncode


def _words(where: Path) -> list[str]:
    return [(where / name / "word").read_text() for name in ("a", "b")]


def _hidden(where: Path) -> list[str]:
    return sorted(p.name for p in where.iterdir() if p.name.startswith("."))


@pytest.mark.parametrize("fatal", [0, 1, 2])
def test_a_first_attempt_that_is_killed_leaves_nothing_in_the_way(tmp_path: Path, fatal: int) -> None:
    assert _make(tmp_path, "lost", fatal=fatal) == -signal.SIGKILL
    assert _make(tmp_path, "new") == 0
    assert _words(tmp_path) == ["new", "new"]
    assert not _hidden(tmp_path)


@pytest.mark.parametrize("fatal", [0, 1, 2, 3, 4])
def test_a_killed_replacement_brings_the_former_folders_back(tmp_path: Path, fatal: int) -> None:
    assert _make(tmp_path, "old") == 0
    assert _make(tmp_path, "lost", overwrite=True, fatal=fatal) == -signal.SIGKILL
    assert _make(tmp_path, "other") == 1, "nobody asked to replace them"
    assert _words(tmp_path) == ["old", "old"]
    assert _make(tmp_path, "new", overwrite=True) == 0
    assert _words(tmp_path) == ["new", "new"]
    assert not _hidden(tmp_path)


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a", "phantom", overwrite=False) as new:
        (new / "word").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a", "phantom", overwrite=True):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a/word").read_text() == "old"
    assert maker(tmp_path / "a") == "phantom"


def _foreign(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("x")


def _of_another_command(path: Path) -> None:
    path.mkdir()
    mark(path, "convert-camus")


def _of_an_older_version(path: Path) -> None:
    path.mkdir()
    (path / "settings.json").write_text(json.dumps({"command": "generate"}))


def _link(path: Path) -> None:
    (path.parent / "far").mkdir()
    mark(path.parent / "far", "make-maps")
    path.symlink_to(path.parent / "far")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_foreign, "does not say"),
        (_of_another_command, "convert-camus"),
        (_of_an_older_version, "generate"),
        (_link, "a link"),
        (lambda p: p.write_text("x"), "a file"),
        (os.mkfifo, "a device"),
    ],
)
def test_what_another_made_is_never_replaced(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tmp_path / "out")
    with pytest.raises(ExistsError, match=reason):
        check_target(tmp_path / "out", "make-maps", overwrite=True)
    with pytest.raises(EchoSynthError, match=reason), new_folder(tmp_path / "out", "make-maps", overwrite=True):
        pass
    assert os.path.lexists(tmp_path / "out")


def test_inputs_and_the_current_folder_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "data/camus"
    source.mkdir(parents=True)
    (tmp_path / "spelled otherwise").symlink_to(tmp_path / "data")
    for path in (source, tmp_path / "data", source / "..", tmp_path / "spelled otherwise"):
        with pytest.raises(ExistsError, match="input"):
            check_target(path, "convert-camus", overwrite=True, inputs=[source])
    mark(tmp_path / "data", "phantom")
    monkeypatch.chdir(source)
    for path in (Path("."), Path(".."), tmp_path / "data"):
        with pytest.raises(ExistsError, match="current folder"):
            check_target(path, "phantom", overwrite=True)


def test_folders_inside_each_other_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "raw/classification", tmp_path / "raw"]
    with pytest.raises(ExistsError, match="would be inside"), new_folders(paths, "convert-camus", overwrite=False):
        pass
    assert not list(tmp_path.iterdir())


def test_a_foreign_journal_moves_and_removes_nothing(tmp_path: Path) -> None:
    """A journal that came with somebody's files names folders that have none of their own."""
    precious, made = tmp_path / "precious", tmp_path / "maps"
    precious.mkdir()
    (precious / "work").touch()
    (tmp_path / ".partial-maps.new").mkdir()
    entries = [{name: str(path) for name in ("path", "new", "old")} for path in (made, precious)]
    (tmp_path / ".partial-maps.journal").write_text(json.dumps(entries))
    with new_folder(made, "make-maps", overwrite=False) as new:
        (new / "word").touch()
    assert (precious / "work").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps", "precious"]


def test_what_came_later_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    with new_folder(folder, "make-maps", overwrite=False) as new:
        (new / "a.png").write_text("a")
        (new / "settings.json").write_text("{}")
        checksums.record(new)
    for litter in (".DS_Store", ".nfs0001", "Thumbs.db"):
        (folder / litter).write_text("")
    check_target(folder, "make-maps", overwrite=True)
    mine = folder / "notes.txt"
    mine.write_text("corrections")
    with pytest.raises(
        ExistsError, match=r"maps: holds notes.txt, which 'echosynth make-maps' did not make.*move notes.txt"
    ):
        check_target(folder, "make-maps", overwrite=True)
    mine.unlink()
    with new_folder(folder / "other", "make-maps", overwrite=False) as new:
        (new / "b.png").write_text("b")
    with pytest.raises(ExistsError, match=r"maps: holds other/b\.png, which"):
        check_target(folder, "make-maps", overwrite=True)


@pytest.mark.parametrize("name", ["labels/corrected/a.png", "labels/mine.png", ".notes"])
def test_what_came_later_is_not_replaced_wherever_it_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    with new_folder(folder, "convert-camus", overwrite=False) as new:
        (new / "labels").mkdir()
        (new / "labels" / "a.png").write_text("a")
        checksums.record(new)
    mine = folder / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("corrections")
    with pytest.raises(ExistsError, match=f"holds {name}, which 'echosynth convert-camus' did not make"):
        check_target(folder, "convert-camus", overwrite=True)
    assert mine.read_text() == "corrections"


def test_a_replaced_folder_goes_whatever_its_rights(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    for word in ("first", "second", "third"):
        with new_folder(tmp_path / "set", "make-maps", overwrite=True) as new:
            (new / "images").mkdir()
            (new / "images" / word).write_text(word)
        (tmp_path / "set" / "images").chmod(0o555)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    assert [p.name for p in (tmp_path / "set/images").iterdir()] == ["third"]
    (tmp_path / "set" / "images").chmod(0o755)


def test_a_leftover_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    mark(tmp_path / "set", "make-maps")
    leftover = tmp_path / ".partial-set.old"
    leftover.mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_options: None)
    with (
        pytest.raises(
            EchoSynthError, match=r"\.partial-set\.old: was replaced by an earlier command and cannot be removed"
        ),
        new_folder(tmp_path / "set", "make-maps", overwrite=True),
    ):
        pass


def test_a_folder_with_damaged_sums_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    mark(tmp_path / "maps", "make-maps")
    (tmp_path / "maps" / checksums.SUMS).write_bytes(b"\xff no sums")
    check_target(tmp_path / "maps", "make-maps", overwrite=True)


def test_names_that_begin_alike_do_not_touch_each_other(tmp_path: Path) -> None:
    """`ema-0` and `ema-0.05`: what one is at work on, or has replaced, is no leftover of the other."""
    (tmp_path / ".partial-ema-0.4194305").mkdir()  # of an earlier version's killed command for ema-0
    former = tmp_path / ".partial-ema-0.1.old"
    former.mkdir()
    (former / "word").write_text("the only copy")
    with new_folder(tmp_path / "ema-0.05", "average-weights", overwrite=False) as longer:
        (longer / "word").write_text("longer")
        with new_folder(tmp_path / "ema-0", "average-weights", overwrite=False) as shorter:
            (shorter / "word").write_text("shorter")
    assert (tmp_path / "ema-0.05" / "word").read_text() == "longer"
    assert (tmp_path / "ema-0" / "word").read_text() == "shorter"
    assert _hidden(tmp_path) == [former.name]
