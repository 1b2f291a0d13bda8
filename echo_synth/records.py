"""JSON files that a command reads again, as validated objects."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from echo_synth.errors import DataError, SpecError
from echo_synth.files import MOST_JSON, read_json
from echo_synth.specs import validate

T = TypeVar("T")


def read_json_as(model: type[T], path: Path, made_by: str, most: int = MOST_JSON) -> T:
    """JSON of `path` as a `model`. Raises DataError that names the file, the key, and the command that writes such files.

    Args:
        most: see `files.read_json`.
    """
    try:
        return validate(model, read_json(path, most), str(path))
    except SpecError as e:
        raise DataError(f"{e}; expected what '{made_by}' writes") from None
