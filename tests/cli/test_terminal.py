"""Commands on a terminal: the whole chain, its segmenter included, ends well and shows its progress; Ctrl-C tells how to go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.terminal import echosynth, in_terminal
from tests.warm import Warm

pytestmark = pytest.mark.slow


def test_the_demo_ends_well_on_a_terminal(warm: Warm, tmp_path: Path) -> None:
    """train-segmenter and predict-segmenter are among its stages, each with the terminal as its output."""
    ended = in_terminal(
        [warm.python, "-m", "tests.short", "demo", "--out", str(tmp_path / "demo"), "--minutes", "1"], seconds=3600
    )
    assert ended.status == 0, ended.screen[-3000:]
    assert (tmp_path / "demo" / "report.html").is_file()
    for shown in ("weights: ", "segmentations", "report: "):
        assert shown in ended.screen
    for bar in ("segmenter", "segment"):
        assert re.search(rf"{bar} +[━╸╺]+ +\d+/\d+", ended.screen), f"no bar of {bar}"
    log = next((tmp_path / "demo").rglob("echosynth.log")).read_text()
    assert "This is the configuration used by this training" in log
    assert "This is the configuration used by this training" not in ended.screen
    assert "closed file" not in ended.screen


@pytest.mark.parametrize("words", [("phantom", "OUT", "--patients", "40"), ("demo", "--out", "OUT", "--minutes", "1")])
def test_ctrl_c_tells_how_to_go_on(words: tuple[str, ...], tmp_path: Path) -> None:
    """Exit status 130, one message at the end, no traceback; a stage of the demo leaves the telling to the demo."""
    given = [w.replace("OUT", str(tmp_path / "out")) for w in words]
    ended = in_terminal(echosynth(*given), interrupt_when=lambda screen: "phantom" in screen and "/" in screen)
    assert ended.status == 130, ended.screen[-2000:]
    assert "Traceback" not in ended.screen
    last = [line for line in ended.screen.splitlines() if line.strip()][-1]
    assert last.count("interrupted") == ended.screen.count("interrupted") == 1
    assert f"echosynth {words[0]}" in last
    assert not (tmp_path / "out" / "phantom").exists()
