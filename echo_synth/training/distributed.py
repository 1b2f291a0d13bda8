"""One process, or many under torchrun / accelerate launch: who writes, and what everyone must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from echo_synth.errors import EchoSynthError

T = TypeVar("T")


def state(device: str) -> PartialState:
    """This process's place; joins the process group on first use (gloo on CPUs, NCCL on GPUs)."""
    return PartialState(cpu=device == "cpu")


def on_main(device: str, make: Callable[[], T]) -> T:
    """`make()` on the main process alone; every process gets its result, or its error."""
    here = state(device)
    if here.num_processes == 1:
        return make()
    answer: list[tuple[T | None, EchoSynthError | None]] = [(None, None)]
    if here.is_main_process:
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
    with state(device).main_process_first():
        yield
