"""One process, or many under torchrun / accelerate launch: who writes, and what everyone must agree on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from echo_synth.errors import EchoSynthError, SpecError

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch.distributed import ProcessGroup

T = TypeVar("T")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
# A process that died or hangs is noticed after this long, not after the wait that follows. Nothing but the steps of a
# training and what the main process does between them (a validation, a preview, a checkpoint) falls into it.
_COLLECTIVES = timedelta(minutes=30)
_PATIENCE = timedelta(hours=24)  # the others wait while the main process prepares data


def process_count() -> int:
    """How many processes the launcher started; 1 without one. Raises SpecError for a WORLD_SIZE that is no number above 0."""
    world = os.environ.get("WORLD_SIZE") or "1"
    if not _NUMBER.fullmatch(world):
        raise SpecError(
            f"WORLD_SIZE={world:.20}: expected a number above 0, as torchrun sets it; unset it to train in this process alone"
        )
    return int(world)


def state(device: str) -> PartialState:
    """This process's place (accelerate's PartialState); joins the group on first use, gloo on CPUs, NCCL on GPUs."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=_COLLECTIVES)


@cache
def _waiting_room() -> ProcessGroup:
    """Where processes wait for the main one: a gloo group, whose patience is its own and which needs no GPU."""
    from torch.distributed import new_group

    group = new_group(backend="gloo", timeout=_PATIENCE)
    assert not isinstance(group, int)  # which a process outside of the group would get
    return group


def on_main(device: str, make: Callable[[], T]) -> T:
    """`make()` on the main process alone; every process gets its result, or its error."""
    if process_count() == 1:
        return make()
    from torch.distributed import broadcast_object_list

    here = state(device)
    answer: list[tuple[T | None, EchoSynthError | None]] = [(None, None)]
    if here.is_main_process:
        try:
            answer = [(make(), None)]
        except EchoSynthError as e:
            answer = [(None, e)]
    broadcast_object_list(answer, src=0, group=_waiting_room())
    value, error = answer[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


@contextmanager
def main_first(device: str) -> Iterator[None]:
    """The main process goes through the block before the others, which then find what it left on disk."""
    if process_count() == 1:
        yield
        return
    from torch.distributed import barrier

    is_main = state(device).is_main_process
    if not is_main:
        barrier(group=_waiting_room())
    yield
    if is_main:
        barrier(group=_waiting_room())
