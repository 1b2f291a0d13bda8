"""The one reader of YAML files: plain data, bounded, without anchors."""

from __future__ import annotations

from pathlib import Path

import yaml

from echo_synth.errors import SpecError
from echo_synth.files import read_short

_MOST_BYTES = 1 << 20
_DEEPEST = 32  # levels of lists and names inside each other

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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # type: ignore[override]
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, name in enumerate(names):
            if name in names[:position]:
                raise yaml.constructor.ConstructorError(None, None, f"'{name[1]:.40}' is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> YamlValue:
    """Content of a YAML file. Raises SpecError, in one line, when it is missing, unreadable, too long or not plain data."""
    data = read_short(path, _MOST_BYTES, "a short file of settings", SpecError)
    try:
        content: YamlValue = yaml.load(data.decode("utf-8-sig"), Loader=_PlainLoader)
        return content
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise SpecError(f"{path}{line}: not readable as YAML ({e.problem or e.context})") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, AttributeError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise SpecError(f"{path}: not readable as YAML ({reason:.100})") from None
