"""Info_*.cfg of CAMUS: clinical fields as text, one a line."""

from __future__ import annotations

import re
from pathlib import Path

from echo_synth import specs
from echo_synth.errors import DataError
from echo_synth.files import read_short_text

CfgValue = int | float | str

_MOST_BYTES = 1 << 16
_NUMBER = {"int": r"[+-]?[0-9]{1,9}", "float": r"[+-]?[0-9]{1,9}(\.[0-9]*)?"}


def read_cfg(path: Path) -> dict[str, CfgValue]:
    """Fields of an Info_*.cfg, typed as data_specs/camus.yaml declares them.

    Raises DataError for an unreadable file or line, an unknown field, a field given twice with
    different values, or a value outside what camus.yaml declares.
    """
    fields = specs.camus().cfg_fields
    result: dict[str, CfgValue] = {}
    for line in read_short_text(path, _MOST_BYTES, "a few lines such as 'EF: 50'").splitlines():
        if not line.strip():
            continue
        key, separator, text = (part.strip() for part in line.partition(":"))
        if not separator or key not in fields:
            raise DataError(f"{path}: unknown line {_shown(line.strip())}, expected one of {', '.join(fields)}")
        value = _value(path, key, text)
        if result.setdefault(key, value) != value:
            raise DataError(f"{path}: {key} is given twice, as {result[key]} and as {value}")
    return result


def _shown(text: str) -> str:
    """`text` in quotes, what cannot be seen or typed as an escape."""
    return ascii(f"{text:.60}")


def _value(path: Path, key: str, text: str) -> CfgValue:
    spec = specs.camus().cfg_fields[key]
    if spec.type == "str":
        if spec.values and text not in spec.values:
            raise DataError(f"{path}: {key} is {_shown(text)}, expected one of {', '.join(spec.values)}")
        return text
    if not re.fullmatch(_NUMBER[spec.type], text):
        raise DataError(f"{path}: {key} is {_shown(text)}, expected {spec.type}")
    value = int(text) if spec.type == "int" else float(text)
    if not spec.low <= value <= spec.high:
        raise DataError(f"{path}: {key} is {_shown(text)}, expected {spec.low:g} to {spec.high:g}")
    return value
