"""What is printed of values that come from files."""

from __future__ import annotations

from echo_synth.errors import DataError, shortened


def test_a_terminal_gets_no_commands_from_a_file() -> None:
    hostile = "dataset\x1b]0;owned\x07\x9b2J\u202etxt.\rall is well"
    assert str(DataError(f"{hostile}: missing")) == r"dataset\x1b]0;owned\x07\x9b2J\u202etxt.\rall is well: missing"


def test_other_letters_and_lines_stay() -> None:
    assert shortened("patiënt 患者 é\nnext line") == "patiënt 患者 é\nnext line"


def test_the_middle_of_a_long_one_is_left_out() -> None:
    short = shortened("a" * 5000 + "do this")
    assert len(short) < 900
    assert short.endswith("do this")
