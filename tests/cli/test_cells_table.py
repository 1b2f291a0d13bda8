"""The table of a sweep's cells keeps names apart on narrow terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.cells_table import print_cells

NAMES = [f"edm-l128_nfe100_seed{s}_segmenter{t}" for s in (0, 1) for t in (0, 1)]
HEADING = ["Cell", "Stages", "Dice LV endo", "Accuracy", "s an image", "price of 1000"]


def _printed(width: int, names: list[str]) -> str:
    console = Console(file=io.StringIO(), width=width, legacy_windows=False)
    print_cells([HEADING, *([n, "12/15", "0.931", "0.987", "0.0525", "0.00146"] for n in names)], "cpu", console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines() if not line.startswith("not shown"))
    assert "…" not in text
    return text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_name_is_shortened(width: int) -> None:
    text = _printed(width, NAMES)
    for name in NAMES:
        (line,) = [line for line in text.splitlines() if name in line]
        assert "12/15" in line
    assert ("not shown in" in text) is (width < 120)
    assert "0.931" in text
    assert ("price of 1000" in text.splitlines()[-1]) is (width < 120)


def test_a_name_wider_than_the_terminal_goes_on_below() -> None:
    name = "x" * 70 + "y"
    assert _printed(60, [name]).count("x") == 70
