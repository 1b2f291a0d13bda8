"""The processes that draw one dataset together: which chunks each draws, and that no two draw the same."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from echo_synth.claims import LOCK, Claim, claim, holder_of
from echo_synth.errors import HeldError, SpecError
from echo_synth.files import PARTIAL


@dataclass(frozen=True)
class Shard:
    """The `index`-th, from 0, of `count` processes; `together`: as many of them as one command runs at once on this machine."""

    index: int
    count: int
    together: int = 1

    @property
    def name(self) -> str:
        return f"{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def split(self, processes: int) -> list[Shard]:
        """Shards that together draw what this one would: chunks are dealt in turn, so every `count`-th of theirs are its own."""
        numbers = range(self.index, self.count * processes, self.count)
        return [Shard(number, self.count * processes, processes) for number in numbers]


WHOLE = Shard(0, 1)
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_SHARD_LOCK = re.compile(rf"{re.escape(LOCK)}-\d+-of-\d+")


def parse_shard(text: str) -> Shard:
    """Shard of i/n, or for 0/1 the process's place under torchrun.

    Raises SpecError that names --shard, or the variables of torchrun.
    """
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    place = _SHARD.fullmatch(f"{rank}/{world}")
    if text == "0/1" and world not in ("", "1"):
        if place is None or int(place[1]) >= int(place[2]):
            raise SpecError(
                f"WORLD_SIZE={world:.20} RANK={rank:.20}: expected numbers with 0 <= RANK < WORLD_SIZE, as torchrun sets them; "
                "unset both to draw in this process alone"
            )
        return Shard(int(place[1]), int(place[2]))
    asked = _SHARD.fullmatch(text)
    if asked is None or int(asked[1]) >= int(asked[2]):
        raise SpecError(f"--shard {text:.80}: expected i/n with 0 <= i < n, such as 0/4")
    return Shard(int(asked[1]), int(asked[2]))


@contextmanager
def hold_shard(dataset: Path, shard: Shard) -> Iterator[Claim]:
    """Draw this shard alone, until the block ends.

    Raises HeldError when another process draws it, or draws by another number of shards.
    """
    with claim(_lock(dataset, shard.name), what=dataset) as held:
        for lock in _locks(dataset):
            other = holder_of(lock) if not lock.name.endswith(f"-of-{shard.count}") else None
            if other:
                raise HeldError(f"{dataset}: in use by {other}, which draws other shards; wait until it has ended")
        yield held


def check_free(dataset: Path, shards: Sequence[Shard]) -> None:
    """Raise HeldError, as `hold_shard`, where another process draws now what belongs to one of `shards`, or in other shards."""
    for shard in shards:
        with hold_shard(dataset, shard):
            pass


def _locks(dataset: Path) -> list[Path]:
    """Of shards; beside them lie, for moments, files by which dead ones are taken over."""
    return [file for file in dataset.glob(f"{LOCK}-*") if _SHARD_LOCK.fullmatch(file.name)]


def _lock(dataset: Path, name: str) -> Path:
    return dataset / f"{LOCK}-{name}"


def remove_dead_shards(dataset: Path) -> None:
    """Remove lock files and half-written files of killed processes."""
    for leftover in dataset.glob(f"{PARTIAL}*-of-*"):
        if holder_of(_lock(dataset, leftover.name.removeprefix(PARTIAL))) is None:
            shutil.rmtree(leftover, ignore_errors=True)
    shards = _locks(dataset)
    for lock in shards:
        with suppress(HeldError), claim(lock):  # not simply removed: another process may be taking it over
            pass
    for file in set(dataset.glob(f"{LOCK}-*")) - set(shards):  # of killed processes that were taking one over
        if holder_of(file) is None:
            file.unlink(missing_ok=True)


def is_held(dataset: Path) -> bool:
    """Whether a process draws this dataset now."""
    return any(holder_of(lock) is not None for lock in _locks(dataset))


def is_held_or_left(dataset: Path) -> bool:
    """Whether a process draws this dataset, or one was killed before it had said that it was done."""
    return any(dataset.glob(f"{LOCK}-*"))
