"""Patterns of file names with places for patient, view, phase and image: matched in bounded time, never as regular expressions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_synth.errors import DataError

PLACES = ("patient", "view", "phase", "image")
_MOST_LETTERS, _MOST_PARTS = 300, 20  # of a pattern; of one of its names
_MOST_ENTRIES = 1_000_000  # files and folders that are looked at
_LONGEST_NAME = 255  # of a file, on every file system
_PARTS = re.compile(r"\{[^{}]*\}|\*|[^{}*]+|[{}]")

Choices = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class NamePattern:
    """A relative path such as images/{patient}_{view}.png.

    {patient} and {image} stand for letters, digits and ._+-, as few as fit; {view} and {phase} for one of the texts that
    are known; * for anything in one file or folder name.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """The pattern of a text. Raises ValueError, in words, for one that is absolute, leads out of its folder or has an unknown place."""
        if not text or len(text) > _MOST_LETTERS or not text.isprintable():
            raise ValueError(f"expected a pattern of 1 to {_MOST_LETTERS} letters")
        names = text.split("/")
        if text.startswith(("/", "~")) or "\\" in text or ":" in text or {"", ".", ".."} & set(names):
            raise ValueError("expected a path inside the folder of the images, with '/', without '..' and without ':'")
        for name in names:
            _check_name(name)
        return cls(text)

    @property
    def places(self) -> set[str]:
        """Which of PLACES it has, and "*"."""
        return {part.strip("{}") for part in _PARTS.findall(self.text) if part[0] in "{*"}

    def fill(self, values: Mapping[str, str]) -> str:
        """The path with `values` in its places; it has no *."""
        return "".join(values[p.strip("{}")] if p[0] == "{" else p for p in _PARTS.findall(self.text))


def _check_name(name: str) -> None:
    parts = _PARTS.findall(name)
    places = [p for p in parts if p[0] in "{}*"]
    for place in places:
        if place != "*" and place.strip("{}") not in PLACES:
            raise ValueError(f"'{place}' is no place; expected {', '.join('{' + p + '}' for p in PLACES)} or *")
    named = [p for p in places if p != "*"]
    if len(parts) > _MOST_PARTS or len(set(named)) < len(named):
        raise ValueError(f"'{name:.60}' has a place twice, or more than {_MOST_PARTS} parts")


@dataclass(frozen=True)
class Found:
    """A file that fits a pattern: its path, and the text in each place."""

    path: Path
    values: Mapping[str, str]


def find_files(
    root: Path, pattern: NamePattern, choices: Choices, passed_over: list[Path] | None = None
) -> Iterator[Found]:
    """Files below `root` that fit, in the order of their names; hidden ones left out.

    Args:
        choices: known texts of view and phase.
        passed_over: gets the files of the same ending, in whatever case, that lie where images are sought and do not fit.

    Raises DataError when what fits is no file, or a folder cannot be listed, or holds more entries than any such dataset.
    """
    budget = iter(range(_MOST_ENTRIES))
    yield from _descend(root, pattern.text.split("/"), {}, choices, budget, passed_over)


def _descend(
    folder: Path,
    names: Sequence[str],
    values: Mapping[str, str],
    choices: Choices,
    budget: Iterator[int],
    passed_over: list[Path] | None,
) -> Iterator[Found]:
    for entry in _entries(folder, budget):
        last = len(names) == 1
        if not last and not entry.is_dir():
            continue
        fitting = match_name(names[0], entry.name, values, choices)
        if fitting is None:
            ending = os.path.splitext(names[0])[1].lower()
            if last and passed_over is not None and entry.name.lower().endswith(ending) and entry.is_file():
                passed_over.append(folder / entry.name)
            continue
        now = {**values, **fitting}
        if last:
            if not entry.is_file():
                kind = "a link to nothing" if not os.path.exists(entry.path) else "not a regular file"
                raise DataError(f"{folder / entry.name}: is {kind}, expected an image; mend or remove it")
            yield Found(folder / entry.name, now)
        else:
            yield from _descend(folder / entry.name, names[1:], now, choices, budget, passed_over)


def _entries(folder: Path, budget: Iterator[int]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listed:
            entries = []
            for entry in listed:
                if next(budget, None) is None:
                    raise DataError(
                        f"{folder}: more than {_MOST_ENTRIES} files; name folders of the dataset in 'images'"
                    )
                if not entry.name.startswith("."):
                    entries.append(entry)
    except OSError as e:
        raise DataError(f"{folder}: cannot be listed ({e.strerror or e})") from None
    return sorted(entries, key=lambda e: e.name)


def match_name(name: str, text: str, values: Mapping[str, str], choices: Choices) -> dict[str, str] | None:
    """Texts in the places of one file or folder name of a pattern, None where `text` does not fit.

    Time grows with the square of the length of `text` at most: of each part and position it is tried once whether the
    rest fits from there.

    Args:
        values: texts of places in the folders above, which must be the same here.
    """
    if len(text) > _LONGEST_NAME:
        return None
    parts = _PARTS.findall(name)
    ends = [_ends_of(part, values, choices) for part in parts]
    failed: set[tuple[int, int]] = set()

    def rest(i: int, start: int) -> dict[str, str] | None:
        if i == len(parts):
            return {} if start == len(text) else None
        if (i, start) in failed:
            return None
        for end in ends[i](text, start):
            found = rest(i + 1, end)
            if found is not None:
                return {parts[i].strip("{}"): text[start:end], **found} if parts[i][0] == "{" else found
        failed.add((i, start))
        return None

    return rest(0, 0)


_Ends = Callable[[str, int], Iterator[int]]


def _ends_of(part: str, values: Mapping[str, str], choices: Choices) -> _Ends:
    """Where a part of a pattern that begins at a position of a text may end."""
    place = part.strip("{}")
    if part == "*":
        return lambda text, start: iter(range(start, len(text) + 1))
    if part[0] != "{":
        return _one_of([part])
    if place in values:
        return _one_of([values[place]])
    if place in choices:
        return _one_of(sorted(choices[place], key=len, reverse=True))
    return _free


def _one_of(texts: Sequence[str]) -> _Ends:
    return lambda text, start: (start + len(t) for t in texts if text.startswith(t, start))


def _free(text: str, start: int) -> Iterator[int]:
    """Letters, digits and ._+-, a letter or digit first, as few as fit."""
    for end in range(start, len(text)):
        letter = text[end]
        if not (letter.isascii() and (letter.isalnum() or (end > start and letter in "._+-"))):
            return
        yield end + 1
