"""Several processes of this machine that draw one dataset, a shard each: how many, and how one command leads them."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from echo_synth.errors import DataError, EchoSynthError
from echo_synth.estimate import Estimate
from echo_synth.generation.run import Drawn, ImageSource
from echo_synth.generation.shards import Shard, check_free
from echo_synth.generation.task import Task
from echo_synth.parallel import children_with_threads, children_without_interrupts, end_with_parent

# Of one process: for less a second one is started in vain. It starts in 4 to 6 s, and two draw 1.36 times as fast.
_PAYS_FROM_SECONDS = 20.0
_OF_MEMORY = 0.8  # of what is free; the rest is for this process, and for the disk's cache
_SECONDS_TO_SAVE = 60.0


@dataclass(frozen=True)
class Division:
    """How a command divides its work: processes, and threads of each. One alone has the threads that torch gives it."""

    processes: int
    threads: int

    def __str__(self) -> str:
        each = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.processes} processes with {each} each"


def divide(
    asked: int | None, cores: int, chunks: int, seconds: float, each_bytes: float = 0.0, free: float | None = None
) -> Division:
    """As many processes as `asked` for, else as pay; never more than there are chunks to draw.

    Args:
        asked: --processes, or None.
        cores: that may be filled.
        chunks: that lack images.
        seconds: of all that is left in one process, roughly.
        each_bytes, free: memory that a process takes, and that there is; None: not known.
    """
    if asked is None:
        asked = cores if seconds >= _PAYS_FROM_SECONDS else 1
        if free is not None and each_bytes > 0:
            asked = min(asked, int(_OF_MEMORY * free / each_bytes))
    processes = max(1, min(asked, chunks))
    return Division(processes, max(1, cores // processes))


def draw_together(
    task: Task, shard: Shard, division: Division, told: Callable[[Estimate], None] | None = None
) -> Drawn:
    """Draw `shard` in processes, and show their progress in one bar.

    Ctrl-C, an error of one and the death of one end all of them; they finish the files that they write. They end with
    this process, also where that is killed.

    Args:
        told: hears what the work will take, once all processes have measured it; None: none measures.

    Returns:
        images of all, the seconds of the slowest, whether the dataset is complete.

    Raises:
        HeldError: another process draws some of it.
        DataError: a process was killed.
        Whatever one of them raised.
    """
    shards = shard.split(division.processes)
    check_free(task.target.raw, shards)
    progress = task.progress(shard)
    drawn, estimates, meter = list[Drawn](), list[Estimate](), None
    with _started(shards, division.threads) as children, ExitStack() as bar:
        for child in children:
            child.send(_Order(task, child.shard, draw=True, measure=told is not None))
        for message in _messages(children):
            if meter is None:  # now that the first has loaded: the time left follows from drawing alone
                meter = bar.enter_context(closing(progress.meter()))
            if isinstance(message, Drawn):
                drawn.append(message)
            elif isinstance(message, Estimate):
                estimates.append(message)
                if told is not None and len(estimates) == len(children):
                    told(_side_by_side(estimates))
            else:
                meter.update(*message)
    return Drawn(sum(d.images for d in drawn), max(d.seconds for d in drawn), any(d.complete for d in drawn))


def estimate_together(task: Task, shard: Shard, division: Division) -> Estimate:
    """What drawing `shard` in processes takes, their start included: each measures while the others do. Writes nothing.

    Raises as `draw_together`.
    """
    begun, loaded, estimates = time.monotonic(), list[float](), list[Estimate]()
    with _started(shard.split(division.processes), division.threads) as children:
        for child in children:
            child.send(_Order(task, child.shard, draw=False, measure=True))
        for message in _messages(children):
            if isinstance(message, Estimate):
                estimates.append(message)
                continue
            loaded.append(time.monotonic() - begun)
            if len(loaded) == len(children):
                for child in children:
                    child.send(_GO)
    whole = _side_by_side(estimates)
    return replace(whole, seconds=whole.seconds + max(loaded))


def _side_by_side(estimates: Sequence[Estimate]) -> Estimate:
    disk, memory = sum(e.disk_bytes for e in estimates), sum(e.memory_bytes for e in estimates)
    return Estimate(max(e.seconds for e in estimates), disk, memory)


_LOADED, _GO = (0, ""), "go"  # what a child says once it could draw; what it waits for before it measures


@dataclass(frozen=True)
class _Order:
    """What a child is told: what it draws or measures."""

    task: Task
    shard: Shard
    draw: bool
    measure: bool


@dataclass(frozen=True)
class _Child:
    """A process, seen from the one that started it. It ends with status 0, or sends an exception, or was killed."""

    shard: Shard
    process: BaseProcess
    channel: Connection

    def send(self, message: object) -> None:
        """Nothing where it is dead, which `_messages` tells."""
        with suppress(OSError):
            self.channel.send(message)

    def check_ended(self, processes: int) -> None:
        """Once its channel is closed. Raises DataError where it was killed."""
        self.process.join()
        status = self.process.exitcode or 0
        if status:
            how = f"was killed (signal {-status})" if status < 0 else f"ended early (status {status})"
            place = (self.shard.index * processes) // self.shard.count + 1
            raise DataError(
                f"process {place} of {processes} (number {self.process.pid}) {how}, often by the system for want of memory; "
                "what was drawn is kept: the same command continues, if need be with fewer --processes"
            )


@contextmanager
def _started(shards: Sequence[Shard], threads: int) -> Iterator[list[_Child]]:
    """A process for each of `shards`, which waits for its order; all have ended when the block has."""
    context = multiprocessing.get_context("spawn")
    children: list[_Child] = []
    try:
        with children_with_threads(threads), children_without_interrupts():
            for shard in shards:
                ours, theirs = context.Pipe()
                process = context.Process(target=_child, args=(theirs,), name=f"echosynth {shard}")
                process.start()
                theirs.close()
                children.append(_Child(shard, process, ours))
        yield children
    except BaseException:
        _stop(children)
        raise
    finally:
        for child in children:
            child.process.join()
            child.channel.close()


def _stop(children: Sequence[_Child]) -> None:
    """Let all finish the files that they write, for a minute at most; at once after another Ctrl-C."""
    until = time.monotonic() + _SECONDS_TO_SAVE
    try:
        for child in children:
            child.process.terminate()
        for child in children:
            child.process.join(max(0.0, until - time.monotonic()))
    except KeyboardInterrupt:
        pass
    finally:
        for child in children:
            child.process.kill()


def _messages(children: Sequence[_Child]) -> Iterator[Any]:
    """What the children send until all have ended; raises the exception that one sends, or DataError where one was killed."""
    living = {child.channel: child for child in children}
    while living:
        for channel in wait(list(living)):
            assert isinstance(channel, Connection)
            try:
                message = channel.recv()
            except (EOFError, OSError):
                living.pop(channel).check_ended(len(children))
                continue
            if isinstance(message, Exception):
                raise message
            yield message


def _child(channel: Connection) -> None:
    """In a process that was started: what the order says, with word of it; SIGTERM ends it as Ctrl-C would."""
    end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            _carry_out(channel.recv(), channel)
        except Exception as e:
            channel.send(_to_send(e))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what ends in order is not to be disturbed
    raise KeyboardInterrupt


def _carry_out(order: _Order, channel: Connection) -> None:
    def loaded(source: ImageSource) -> None:
        channel.send(_LOADED)
        if order.measure:
            channel.send(order.task.expect(source, order.shard))

    if order.draw:
        first = order.shard.index * order.shard.together < order.shard.count
        channel.send(order.task.draw(order.shard, loaded, _Sent(channel, first)))
        return
    source = order.task.source()
    channel.send(_LOADED)
    channel.recv()  # _GO
    channel.send(order.task.expect(source, order.shard))


@dataclass(frozen=True)
class _Sent:
    """A `run.Shown` that another process shows; only one of several tells of its evaluations."""

    channel: Connection
    notes: bool

    def update(self, n: int = 1, note: str = "") -> None:
        if n or self.notes:
            self.channel.send((n, note))

    def close(self) -> None: ...


def _to_send(e: Exception) -> Exception:
    """`e` as it surely arrives, with its traceback for --debug."""
    plain = isinstance(e, (EchoSynthError, OSError, MemoryError)) or type(e) is RuntimeError
    sent = e if plain else RuntimeError(f"{type(e).__name__}: {e}")
    sent.add_note("".join(traceback.format_exception(e)))
    return sent
