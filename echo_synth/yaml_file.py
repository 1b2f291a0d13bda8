"""The one reader of YAML files: plain data, bounded, without anchors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from echo_synth.errors import SpecError
from echo_synth.files import read_short

_MOST_BYTES = 1 << 20
_DEEPEST = 32  # levels of lists and names inside each other

T = TypeVar("T")
YamlValue = str | int | float | bool | None | list["YamlValue"] | dict["YamlValue", "YamlValue"]


class _PlainLoader(yaml.SafeLoader):
    """Data only. Anchors are refused: ten lines of them stand for a billion values."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:  # type: ignore[override]
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases (& and *) are not used here", event.start_mark
            )
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"more than {_DEEPEST} levels", event.start_mark)
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return super().construct_yaml_int(_as_written(node))  # type: ignore[no-untyped-call, no-any-return]

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return super().construct_yaml_float(_as_written(node))  # type: ignore[no-untyped-call, no-any-return]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # type: ignore[override]
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[tuple[str, str]] = set()
        for name in names:
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{name[1]:.40}' is there twice", node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


# The loader keeps the functions that it was made with, so overriding the methods is not enough.
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_yaml_float)


def _as_written(node: yaml.ScalarNode) -> yaml.ScalarNode:
    """The node of a number. Raises ConstructorError for what YAML 1.1 takes for another number than people do: 0501 is 321, 1:30 is 90."""
    digits = node.value.lstrip("+-")
    if ":" in digits or (len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_"):
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{node.value:.20} would be another number; write numbers without leading 0 or colon, and text in quotes",
            node.start_mark,
        )
    return node


@dataclass(frozen=True)
class Lines:
    """On which line of a YAML file what stands, counted from 1; by names and positions from the outside in, as text."""

    known: Mapping[tuple[str, ...], int] = field(repr=False)

    def find(self, location: Sequence[int | str]) -> int:
        """Line of `location`, or of the innermost part of it that the file has."""
        return self.known.get(self.present(location), 1)

    def present(self, location: Sequence[int | str]) -> tuple[str, ...]:
        """The parts of `location` that the file has; a tag that a schema adds is left out."""
        place: tuple[str, ...] = ()
        for part in location:
            if (*place, str(part)) in self.known:
                place = (*place, str(part))
        return place


def read_yaml(path: Path) -> YamlValue:
    """Content of a YAML file. Raises SpecError, in one line, when it is missing, unreadable, too long or not plain data."""
    return _read(path, lambda loader: loader.get_single_data())


def read_yaml_lines(path: Path) -> tuple[YamlValue, Lines]:
    """`read_yaml`, and on which line each of its parts begins."""
    return _read(path, _with_lines)


def _with_lines(loader: _PlainLoader) -> tuple[YamlValue, Lines]:
    node: yaml.Node | None = loader.get_single_node()  # type: ignore[no-untyped-call]
    if node is None:
        return None, Lines({})
    content: YamlValue = loader.construct_document(node)  # type: ignore[no-untyped-call]
    lines: dict[tuple[str, ...], int] = {}
    _note_lines(node, (), node.start_mark.line + 1, lines)
    return content, Lines(lines)


def _note_lines(node: yaml.Node, place: tuple[str, ...], line: int, lines: dict[tuple[str, ...], int]) -> None:
    lines[place] = line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _note_lines(value, (*place, str(key.value)), key.start_mark.line + 1, lines)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            _note_lines(value, (*place, str(position)), value.start_mark.line + 1, lines)


def _read(path: Path, construct: Callable[[_PlainLoader], T]) -> T:
    data = read_short(path, _MOST_BYTES, "a short file of settings", SpecError)
    try:
        loader = _PlainLoader(data.decode("utf-8-sig"))
        try:
            return construct(loader)
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise SpecError(f"{path}{line}: not readable as YAML ({e.problem or e.context})") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, AttributeError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise SpecError(f"{path}: not readable as YAML ({reason:.100})") from None
