"""timing.json: how long drawing took, a record a process and attempt.

It lies in the folder of raw datasets, not in a dataset: a dataset's files are the same however
often its drawing was interrupted.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from echo_synth.claims import claim, lock_beside
from echo_synth.errors import DataError, HeldError
from echo_synth.files import write_json
from echo_synth.records import read_json_as

TIMING = "timing.json"


@dataclass(frozen=True)
class Attempt:
    """One process that drew images of a dataset.

    Attributes:
        images: drawn now.
        seconds: of drawing and writing them, without start-up and loading.
        device, precision: of the networks; "cpu" and "" for sources without one.
        shard: i/n.
        started: local time, ISO 8601.
        host, process: where, and its number.
        processes: that one command ran at once, this one included; `seconds` are this one's.
        threads: of this process's networks; 0 in records of earlier versions and for sources without a network.
        torch: its version, and `hardware` the name of the GPU; "" in records of earlier versions and for sources without a network.
    """

    images: int
    seconds: float
    device: str
    precision: str
    shard: str = "0/1"
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S"))
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    processes: int = 1
    threads: int = 0
    torch: str = ""
    hardware: str = ""


def timing_file(dataset: Path) -> Path:
    """timing.json of all datasets beside `dataset`: {folder name: [attempt, …]}."""
    return dataset.parent / TIMING


def record_attempt(dataset: Path, attempt: Attempt) -> None:
    """Add a record; processes that end together take turns.

    A damaged file gives way, and one that cannot be written (another user's, in a folder that many share) stays as it is:
    how long drawing took is not worth losing what was drawn.
    """
    file = timing_file(dataset)
    with suppress(DataError, HeldError), claim(lock_beside(file), wait=60):
        try:
            known = _read(file)
        except DataError:
            known = {}
        known.setdefault(dataset.name, []).append(attempt)
        write_json(file, {name: [asdict(a) for a in of_one] for name, of_one in known.items()})


def _read(file: Path) -> dict[str, list[Attempt]]:
    """Attempts by folder name. Raises DataError for a damaged file."""
    return read_json_as(dict[str, list[Attempt]], file, "echosynth generate") if file.is_file() else {}


def attempts(dataset: Path) -> list[Attempt]:
    """Attempts at `dataset` in order; none where nothing was recorded. Raises DataError for a damaged file."""
    return _read(timing_file(dataset)).get(dataset.name, [])


def seconds_per_image(dataset: Path) -> float | None:
    """What an image took in the last attempt that drew any, or None; of processes that drew at once, of all of them together."""
    drawn = [a for a in attempts(dataset) if a.images]
    return drawn[-1].seconds / drawn[-1].images / drawn[-1].processes if drawn else None
