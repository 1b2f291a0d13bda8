"""What a launcher such as torchrun says of its processes."""

from __future__ import annotations

import pytest

from echo_synth.errors import SpecError
from echo_synth.training.distributed import process_count


@pytest.mark.parametrize(("world", "count"), [("", 1), ("1", 1), ("16", 16)])
def test_processes_of_a_launcher(monkeypatch: pytest.MonkeyPatch, world: str, count: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    assert process_count() == count


@pytest.mark.parametrize("world", ["abc", "0", "-2", "1.5", "2 ", "٣", "9" * 40])
def test_what_is_no_number_of_processes(monkeypatch: pytest.MonkeyPatch, world: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(SpecError, match=r"WORLD_SIZE=.*expected a number above 0"):
        process_count()
