"""Which shard a process draws, by --shard or by its place under torchrun."""

from __future__ import annotations

import pytest

from echo_synth.errors import SpecError
from echo_synth.generation.shards import Shard, parse_shard


def test_a_shard_is_asked_for_or_is_the_place_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    for text in ("4/4", "-1/4", "1", "1/4/2", "²/4", f"0/{'9' * 5000}"):
        with pytest.raises(SpecError, match=r"--shard .*expected i/n with 0 <= i < n"):
            parse_shard(text)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert parse_shard("0/1") == Shard(1, 2)
    assert parse_shard("1/3") == Shard(1, 3)


@pytest.mark.parametrize(
    ("world", "rank"), [("2", None), ("2", ""), ("x", "0"), ("2", "2"), ("2", "-1"), ("0", "0"), (f"{'9' * 5000}", "0")]
)
def test_variables_that_are_not_torchruns_are_named(
    world: str, rank: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SpecError, match=r"WORLD_SIZE=.*expected numbers with 0 <= RANK < WORLD_SIZE"):
        parse_shard("0/1")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    assert parse_shard("0/1") == Shard(0, 1)
