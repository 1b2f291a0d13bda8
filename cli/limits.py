"""What values options accept, by name, for all commands: checked before any work, and named when they are not met."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_DEEPEST = 250  # folders of a path; Python makes deeper ones by recursion, up to a point
LARGEST_SEED = 2**63 - 1  # tables and torch's generators hold signed 64-bit numbers


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, both included; above `low` alone when `open_below`."""

    low: float
    high: float
    open_below: bool = False

    def refuse(self, value: float) -> str | None:
        """What is expected instead of `value`, or None when it is fine."""
        above = value > self.low if self.open_below else value >= self.low
        if math.isfinite(value) and above and value <= self.high:
            return None
        start = "above" if self.open_below else "from"
        end = ", at most" if self.open_below else " to"
        return f"expected a number {start} {_number(self.low)}{end} {_number(self.high)}"


@dataclass(frozen=True)
class OneOf:
    """Words, or texts of a pattern that `words` describes too."""

    words: tuple[str, ...]
    pattern: str = ""

    def refuse(self, value: str) -> str | None:
        """What is expected instead of `value`, or None when it is fine."""
        if value in self.words or (self.pattern and re.fullmatch(self.pattern, value)):
            return None
        return f"expected {', '.join(self.words[:-1])} or {self.words[-1]}"


_COUNT = Between(1, 1_000_000)
_BATCH = Between(1, 65_536)
NUMBERS: Mapping[str, Between] = {
    "batch": _BATCH,
    "at_once": Between(1, 100_000),
    "copies": Between(1, 1000),
    "count": _COUNT,
    "cpus": Between(1, 1_000_000),
    "epochs": _COUNT,
    "gpus": Between(0, 1024),
    "hours": Between(0.1, 10_000),
    "images": Between(1, 10**10),
    "iterations": _COUNT,
    "lr": Between(0, 100, open_below=True),
    "mem": Between(0.1, 100_000),
    "micro_batch": _BATCH,
    "minutes": Between(1, 10_000),
    "modulation_memory": Between(0, 2**30),
    "patients": Between(1, 100_000),
    "processes": Between(1, 1024),
    "price": Between(0, 1_000_000),
    "repeats": _COUNT,
    "resolution": Between(32, 512),
    "restarts": Between(0, 1000),
    "seed": Between(0, LARGEST_SEED),
    "share": Between(0, 1),
    "sigma_max": Between(1, 1000),
    "snapshots": Between(0, 1000),
    "workers": Between(1, 1024),
}
# Batch norm needs two images to estimate a spread from.
NUMBERS_OF_COMMAND: Mapping[tuple[str, str], Between] = {("train-classifier", "batch"): Between(2, 65_536)}
CHOICES: Mapping[str, OneOf] = {
    "cluster": OneOf(("local", "slurm")),
    "device": OneOf(("auto", "cpu", "cuda", "cuda:N"), r"cuda:\d{1,4}"),
    "precision": OneOf(("auto", "fp32", "bf16", "fp16")),
}
_DRAWING = OneOf((*CHOICES["precision"].words, "int8"))
CHOICES_OF_COMMAND: Mapping[tuple[str, str], OneOf] = {
    (command, "precision"): _DRAWING for command in ("generate", "sample-grid", "study-solvers", "benchmark", "sweep")
}


def refusal(command: str, option: str, value: object) -> str | None:
    """Why `value` cannot be that of an option or argument; None when it can.

    Args:
        command: name of the command.
        option: the parameter's name in Python.
        value: as it was parsed; of an option that may be repeated, the list.
    """
    if isinstance(value, (list, tuple)):
        return next((r for v in value if (r := refusal(command, option, v))), None)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return _refused_number(command, option, value)
    return _refused_text(command, option, value) if isinstance(value, (str, Path)) else None


def _refused_number(command: str, option: str, value: float) -> str | None:
    limits = NUMBERS_OF_COMMAND.get((command, option)) or NUMBERS.get(option)
    # An option without limits of its own: what the machine's integers hold.
    return (limits or Between(-LARGEST_SEED, LARGEST_SEED)).refuse(value)


def _refused_text(command: str, option: str, value: str | Path) -> str | None:
    text = str(value)
    if not text.isprintable():  # control characters, and bytes that are no UTF-8
        return "expected text without control characters, in UTF-8"
    if isinstance(value, Path) and len(value.parts) > _DEEPEST:
        return f"expected a path of at most {_DEEPEST} folders"
    choice = CHOICES_OF_COMMAND.get((command, option)) or CHOICES.get(option)
    return choice.refuse(text) if choice and isinstance(value, str) else None


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
