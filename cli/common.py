"""What every command does the same way: show its settings, stop on a dry run, say what it wrote."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from echo_synth.estimate import Estimate

T = TypeVar("T")
_FEW_IMAGES = 500  # a training of fewer is not worth measuring


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: paths as text, records as dictionaries."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def one_of(option: str, value: str, known: Sequence[T]) -> T:
    """`value`, which must be among `known`. Raises typer.BadParameter (exit code 2) that names the option."""
    for choice in known:
        if choice == value:
            return choice
    raise typer.BadParameter(f"'{value}'; expected {', '.join(map(str, known))}", param_hint=option)


def parse_numbers(option: str, text: str) -> list[int]:
    """Positive integers of "5,10,20", each once. Raises typer.BadParameter (exit code 2) that names the option."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"'{text}'; expected positive numbers such as 5,10,20", param_hint=option)
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"'{text}'; expected each number once", param_hint=option)
    return numbers


def begin(command: str, settings: Mapping[str, Any], dry_run: bool, last: Sequence[str] = ()) -> dict[str, Any]:
    """Print the resolved settings (with a dry run only) and return them ready for settings.json.

    They are one JSON object on standard output, whatever else a dry run says.

    Args:
        last: lines for the person watching, below the settings of a dry run.

    Raises typer.Exit(0) after printing when `dry_run`.
    """
    from echo_synth import __version__

    resolved = {"command": command, "version": __version__, **plain(settings)}
    if dry_run:
        import json

        typer.echo(json.dumps(resolved, indent=2, ensure_ascii=False))
        for line in (*last, "dry run: nothing was written"):
            say(line)
        raise typer.Exit(0)
    return resolved


def say(line: str) -> None:
    """A line for the person watching; results that scripts read go to standard output instead."""
    if _speaks():
        print(line, file=sys.stderr, flush=True)


def say_how_long(estimate: Callable[[], Estimate], images: int, dry_run: bool) -> None:
    """The estimate in a dry run; before a training on `images` images, only where it takes over an hour."""
    if dry_run:
        say(f"estimate: {estimate()}")
    elif images > _FEW_IMAGES and (expected := estimate()).is_long:
        say(f"this takes {expected}; it can be interrupted and continued")


def done(*lines: str) -> None:
    """The closing summary: what was written and what to do next."""
    for line in lines if _speaks() else ():
        typer.echo(line)


def _speaks() -> bool:
    """Under torchrun the first process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def typed(path: Path) -> str:
    """A path as one types it in a shell, for commands in messages."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
