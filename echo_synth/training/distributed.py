"""One process, or many under torchrun / accelerate launch: who writes, and what everyone must agree on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from echo_synth.errors import EchoSynthError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
_PATIENCE = timedelta(hours=24)  # the others wait while the main process prepares data


def process_count() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def state(device: str) -> PartialState:
    """This process's place (accelerate's PartialState); joins the group on first use, gloo on CPUs, NCCL on GPUs."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=_PATIENCE)


def on_main(device: str, make: Callable[[], T]) -> T:
    """`make()` on the main process alone; every process gets its result, or its error."""
    if process_count() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    answer: list[tuple[T | None, EchoSynthError | None]] = [(None, None)]
    if state(device).is_main_process:
        try:
            answer = [(make(), None)]
        except EchoSynthError as e:
            answer = [(None, e)]
    broadcast_object_list(answer)
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
    with state(device).main_process_first():
        yield
