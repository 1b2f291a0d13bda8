"""Numbers in YAML files are the ones that people read in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_synth.errors import SpecError
from echo_synth.yaml_file import read_yaml


def _read(tmp_path: Path, text: str) -> object:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    return read_yaml(file)


@pytest.mark.parametrize("number", ["0501", "-017", "1:30", "1:30.5", "00.5", "0_7"])
def test_numbers_that_yaml_takes_for_others_are_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(SpecError, match=rf"a.yaml, line 2: .*{number} would be another number; write numbers without"):
        _read(tmp_path, f"# a comment\nreal: {number}\n")


def test_other_numbers_and_texts_are_read_as_they_look(tmp_path: Path) -> None:
    text = "[0, 501, -3, 0.5, 1.0e-4, .5, 1_000, 0x1f, 0, '0501', \"1:30\", a:b]"
    assert _read(tmp_path, text) == [0, 501, -3, 0.5, 1e-4, 0.5, 1000, 31, 0, "0501", "1:30", "a:b"]
