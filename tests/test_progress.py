"""What is shown while work goes on: on a terminal, in a pipe, and past its end."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from echo_synth import progress
from echo_synth.progress import Meter, format_seconds, output_to
from tests.cli.terminal import in_terminal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-68, "0 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (200000, "2 days 7 h"),
        (float("inf"), "unknown time"),
    ],
)
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_lines_begin_at_zero_and_end_at_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    stream = io.StringIO()
    meter = Meter(80, "train", "images", stream=stream)
    deadline = time.monotonic() + 20
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(3):
        meter.update(32)
    meter.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 0/80 images"
    assert lines[1].startswith("train: 32/80 images, ")
    assert lines[-1].startswith("train: 80/80 images")
    assert not re.search(r"-\d", stream.getvalue())


def test_short_work_says_nothing() -> None:
    stream = io.StringIO()
    meter = Meter(2, "short", stream=stream)
    meter.update(2)
    meter.close()
    assert stream.getvalue() == ""


@pytest.mark.slow
def test_a_bar_stands_before_the_first_unit_is_done() -> None:
    code = (
        "import time; from echo_synth.progress import Meter; m = Meter(80, 'train', 'images'); time.sleep(2.5); "
        "m.update(96); m.close(); print('after')"
    )
    ended = in_terminal([sys.executable, "-c", code])
    assert ended.status == 0
    assert "0/80" in ended.screen
    assert "80/80" in ended.screen
    assert "96/80" not in ended.screen
    assert "after" in ended.screen


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("plain", [False, True])
def test_bars_have_no_colours_where_none_are_wanted(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    stream = _Terminal()
    meter = Meter(4, "train", "images", stream=stream)
    meter.update(2)
    meter.close()
    assert "2/4" in stream.getvalue()
    assert bool(re.search(r"\x1b\[[0-9;]*[34][0-9;]*m", stream.getvalue())) is not plain


@pytest.mark.slow
def test_a_bar_beside_redirected_output_leaves_everything_in_place(tmp_path: Path) -> None:
    """Libraries, their child processes and Python itself print into the log; the bar is on the terminal; afterwards all is as before."""
    code = f"""
import os, subprocess, sys, time
from pathlib import Path
from echo_synth.progress import Meter, output_to
before = sys.stdout, sys.stderr
with output_to(Path({str(tmp_path / "log")!r})) as watching:
    meter = Meter(4, "segmenter", "iterations", stream=watching)
    print("python talks")
    os.write(1, b"library talks\\n")
    subprocess.run(["sh", "-c", "echo child talks; echo child complains >&2"])
    time.sleep(2.2)
    meter.update(4)
    meter.close()
assert (sys.stdout, sys.stderr) == before
print("done"); print("also done", file=sys.stderr)
"""
    ended = in_terminal([sys.executable, "-c", code])
    assert ended.status == 0, ended.screen
    assert "segmenter" in ended.screen
    assert "4/4" in ended.screen
    assert "also done" in ended.screen
    assert "talks" not in ended.screen
    log = (tmp_path / "log").read_text()
    assert all(words in log for words in ("python talks", "library talks", "child talks", "child complains"))
    assert "segmenter" not in log


def test_output_comes_back_after_an_error(tmp_path: Path) -> None:
    before = os.fstat(1), sys.stdout
    with pytest.raises(RuntimeError), output_to(tmp_path / "log"):
        raise RuntimeError
    assert (os.fstat(1), sys.stdout) == before


def test_no_screen_is_fine() -> None:
    """A process whose output is closed still works."""
    code = "from echo_synth.progress import Meter; m = Meter(3, 'x'); m.update(3); m.close()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
