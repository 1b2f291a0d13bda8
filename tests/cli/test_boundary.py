"""What becomes of exceptions that nobody expected where they happened: the disk, the memory, a defect."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.boundary import explain, is_memory
from cli.common import typed
from cli.main import _refuse_a_folder_that_is_gone
from echo_synth.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_file(number: int, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    assert explain(OSError(number, os.strerror(number), str(file))) == (
        f"{file}: no space left on the device; free some and run the same command again"
    )


def test_a_system_that_refuses_without_naming_a_file_is_told_in_its_own_words() -> None:
    assert explain(OSError(errno.EMFILE, "Too many open files")) == "the system refused: Too many open files"
    assert explain(BrokenPipeError()).startswith("the system refused: ")


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("not enough memory: you tried to allocate 400 bytes"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    ],
)
def test_memory_that_does_not_suffice_is_no_defect(raised: Exception) -> None:
    assert is_memory(raised)
    assert explain(raised).startswith("out of memory; free some")


def test_a_defect_says_how_to_see_more_of_it_and_stays_short() -> None:
    told = explain(ValueError("x" * 10_000))
    first, second = told.splitlines()
    assert first.startswith("unexpected ValueError: xxx")
    assert len(first) < 2000
    assert "--debug" in second
    assert not is_memory(ValueError("not enough memory"))
    assert not is_memory(RuntimeError("shapes do not fit"))


def test_what_a_reader_said_is_passed_on() -> None:
    assert explain(DataError("a.csv: row 3: expected a number")) == "a.csv: row 3: expected a number"


def test_closed_streams_lead_to_nowhere() -> None:
    code = "from cli.main import _open_what_is_closed as mend; mend(); import os, sys; print('x', file=sys.stderr); os._exit(os.open('/', 0))"
    ended = subprocess.run(["sh", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable, code], cwd=ROOT)
    assert ended.returncode == 3  # the next file is not taken for a standard stream


def test_a_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit, match="1"):
        _refuse_a_folder_that_is_gone()
    monkeypatch.chdir(tmp_path)
    assert "the current folder no longer exists" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "words"), [("out", "out"), ("sp ace", "'sp ace'"), ("-x", "./-x")])
def test_paths_in_messages_can_be_typed(path: str, words: str) -> None:
    assert typed(Path(path)) == words
