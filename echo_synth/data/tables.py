"""The tables that stages exchange: columns, units and types of cases.csv, index.parquet and manifest.parquet.

Tables are read only here. The error for a wrong table names file and column, what was found
and what was expected. Columns that are not declared are kept as they are.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from echo_synth.data.subject import subject_of
from echo_synth.errors import DataError
from echo_synth.types import PHASES, SPLITS, VIEWS

_MOST_BYTES = 1 << 28  # of a CSV file; a row of cases.csv of generate takes some 140
MOST_ROWS, _MOST_COLUMNS = 2_000_000, 1000  # twice the images of the largest dataset
MOST_VALUES = 1 << 26  # of a parquet file, those in lists included
_MOST_UNPACKED = 1 << 30  # bytes
_MOST_TEXT = 1 << 28  # bytes of all texts, each as often as it is there
_CODECS = ("SNAPPY", "UNCOMPRESSED")  # what unpacks to twenty times its length at most, whatever it claims
_SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}"  # names become file names


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        kind: name (a file name without folders), text, number (int64 or float64) or numbers (a list a row).
        unit: of numbers.
        needed: whether the table may lack it; a needed column has no empty cell.
        low, high: smallest and largest number.
        values: all that a text may be.
    """

    name: str
    kind: Literal["name", "text", "number", "numbers"]
    doc: str
    unit: str = ""
    needed: bool = False
    low: float = -math.inf
    high: float = math.inf
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One kind of table; `key` names the column whose values are all different."""

    file: str
    made_by: str
    key: str
    columns: tuple[Column, ...]


_PATIENT = Column("patient", "name", "patient0001", needed=True)
# Of CAMUS; a dataset with a subject.json has its own.
_VIEW = Column("view", "text", "apical view", needed=True, values=VIEWS)
_PHASE = Column("phase", "text", "end-diastole or end-systole", needed=True, values=PHASES)


def _spacing(name: str, doc: str, needed: bool = False) -> Column:
    return Column(name, "number", doc, "mm a pixel", needed, 1e-3, 100.0)


def _length(name: str, doc: str) -> Column:
    return Column(name, "number", doc, "px", low=1, high=65536)


CASES = Table(
    "cases.csv",
    "echosynth convert-camus",
    "case",
    (
        Column("case", "name", "patient0001_2CH_ED, the stem of every file of the case", needed=True),
        _PATIENT,
        _VIEW,
        _PHASE,
        Column("split", "text", "which part of the dataset", needed=True, values=SPLITS),
        Column("sex", "text", "of the patient: F or M"),
        Column("age", "number", "of the patient", "years", low=0, high=130),
        Column("quality", "text", "of the view's images: Good, Medium or Poor"),
        Column("ef", "number", "ejection fraction of the patient", "%", low=0, high=100),
        Column("frame_rate", "number", "of the view's sequence", "Hz", low=0, high=1000),
        Column("edv", "number", "end-diastolic volume of the patient", "ml", low=0, high=2000),
        Column("esv", "number", "end-systolic volume of the patient", "ml", low=0, high=2000),
        _length("rows", "of the image"),
        _length("columns", "of the image"),
        _spacing("spacing_row_mm", "of the image, downwards"),
        _spacing("spacing_column_mm", "of the image, sideways"),
        _length("native_rows", "of the source's image"),
        _length("native_columns", "of the source's image"),
        _spacing("native_spacing_row_mm", "of the source's image, downwards"),
        _spacing("native_spacing_column_mm", "of the source's image, sideways"),
        Column("sector_area_mm2", "number", "area of the ultrasound sector", "mm²", low=0),
        Column("source", "name", "of a mixture: the dataset that holds the files"),
        Column("map", "name", "of a synthetic dataset: the condition map"),
        Column("source_case", "name", "of a synthetic dataset: the case that the map was made from"),
    ),
)

_FROM_MAPS = (
    Column("map", "name", "patient0001_2CH_ED_aug3_seed0, the map's file", needed=True),
    Column("source_case", "name", "the case whose mask was transformed", needed=True),
    _PATIENT,
    _VIEW,
    _PHASE,
    Column("split", "text", "of the source case; never test", needed=True, values=("train", "val")),
    _spacing("spacing_row_mm", "of the map, downwards", needed=True),
    _spacing("spacing_column_mm", "of the map, sideways", needed=True),
)

MAPS_INDEX = Table(
    "index.parquet",
    "echosynth make-maps",
    "map",
    (
        *_FROM_MAPS,
        Column("repeat", "number", "which transformation of the mask, from 0", needed=True, low=0, high=1e9),
        Column("rotation_deg", "number", "about the centre", "degrees"),
        Column("shift_vertical", "number", "positive is down", "image heights"),
        Column("scale", "number", "both axes", "1", low=1e-3, high=1e3),
        Column("shear_deg", "number", "about the centre", "degrees"),
        Column("elastic", "numbers", "control points (2, K, K), flat: rows, then columns", "px"),
        Column(
            "source_ef", "number", "ejection fraction of the patient's four masks, where the recipe measures it", "%"
        ),
        Column("ef", "number", "of the four maps of this repeat", "%"),
    ),
)

MANIFEST = Table(
    "manifest.parquet",
    "echosynth generate",
    "image",
    (
        Column("image", "name", "the case's name, the stem of its files", needed=True),
        Column("index", "number", "position in drawing order, decides the noise", needed=True, low=0),
        *(c for c in _FROM_MAPS),
    ),
)


def read_cases(path: Path, needed: Sequence[str] | None = None) -> pd.DataFrame:
    """cases.csv, one row per case, columns of CASES.

    Args:
        needed: columns that must be there; by default those that every stage needs.

    Raises DataError when it is missing or not a table, when a value is not allowed in its column, when a
    case is listed twice, or when a patient is in more than one split.
    """
    return read_table(path, CASES, needed)


def read_table(path: Path, declared: Table, needed: Sequence[str] | None = None) -> pd.DataFrame:
    """A CSV file with the columns of `declared`; raises DataError as `read_cases`."""
    if not path.is_file():
        raise DataError(f"{path}: missing; was this folder made by '{declared.made_by}'?")
    text = _read_text(path)
    names = {c.name: str for c in declared.columns if c.kind in ("name", "text")}
    try:
        table = pd.read_csv(io.StringIO(text), dtype=names, keep_default_na=False, na_values=[""])  # type: ignore[arg-type]
    except (ValueError, OverflowError, RecursionError) as e:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path}: not a table ({str(e).splitlines()[0]:.100})") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas' reading of rows that are longer than the header
        raise DataError(f"{path}: its rows have more cells than its header has columns")
    return validate(table, declared, path, needed)


def read_index(path: Path) -> pd.DataFrame:
    """index.parquet of condition maps, columns of MAPS_INDEX; raises DataError as `read_cases`."""
    return validate(_read_parquet(path, MAPS_INDEX), MAPS_INDEX, path)


def read_manifest(path: Path) -> pd.DataFrame:
    """manifest.parquet of a synthetic dataset, columns of MANIFEST; raises DataError as `read_cases`."""
    return validate(_read_parquet(path, MANIFEST), MANIFEST, path)


def _read_text(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes, expected a table of at most {_MOST_BYTES}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save it as UTF-8, not UTF-16 or a code page") from None
    if "\0" in text:
        raise DataError(f"{path}: holds zero bytes, expected UTF-8 text")
    _check_extent(path, text.count("\n"), text.partition("\n")[0].count(",") + 1)
    return text


def _check_extent(path: Path, rows: int, columns: int) -> None:
    if rows > MOST_ROWS or columns > _MOST_COLUMNS:
        most = f"{MOST_ROWS} and {_MOST_COLUMNS}"
        raise DataError(f"{path}: {rows} rows and {columns} columns, expected at most {most}")


def _read_parquet(path: Path, table: Table) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: missing; was this folder made by '{table.made_by}'?")
    try:
        metadata = pq.read_metadata(path)
        _check_extent(path, metadata.num_rows, metadata.num_columns)
        _check_promises(path, metadata)
        _check_texts(path, metadata)
        return pd.read_parquet(path)
    except PermissionError:
        raise DataError(f"{path}: no permission to read it; change its rights") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
        raise DataError(f"{path}: damaged or not a parquet table ({str(e).splitlines()[0]:.100})") from None


def _check_promises(path: Path, metadata: Any) -> None:
    """Refuse, by what a parquet file says of itself, one that would unpack to what no such table holds."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(metadata.num_columns)]
    foreign = {c.compression for c in chunks} - set(_CODECS)
    if foreign:
        raise DataError(f"{path}: packed with {min(foreign)}, expected {' or '.join(_CODECS)}; save it so")
    unpacked, values = sum(g.total_byte_size for g in groups), sum(c.num_values for c in chunks)
    if not 0 <= unpacked <= _MOST_UNPACKED or not 0 <= values <= MOST_VALUES:
        raise DataError(f"{path}: promises {values} values of {unpacked} bytes, which no such table has")


def _check_texts(path: Path, metadata: Any) -> None:
    """Refuse texts that are too long together: one that is in every row is in the file once, and in memory as often as read."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY"]
    nested = [name for name in texts if "." in name]
    if nested:
        raise DataError(f"{path}: column '{nested[0]:.60}' holds lists of texts, which no such table has")
    total = 0
    for column in pq.read_table(path, columns=texts, read_dictionary=texts).itercolumns():
        for part in column.chunks:
            lengths = pc.binary_length(part.dictionary).take(part.indices)
            total += pc.sum(lengths).as_py() or 0
    if total > _MOST_TEXT:
        raise DataError(f"{path}: holds {total} bytes of text, expected at most {_MOST_TEXT}")


def validate(frame: pd.DataFrame, table: Table, path: Path, needed: Sequence[str] | None = None) -> pd.DataFrame:
    """`frame` of the file `path`, checked against `table`; raises DataError as `read_cases`."""
    wanted = [c.name for c in table.columns if c.needed] if needed is None else list(needed)
    lacking = [name for name in wanted if name not in frame]
    if lacking:
        raise DataError(f"{path}: no column '{lacking[0]}'; expected the {table.file} of '{table.made_by}'")
    if frame.columns.has_duplicates:
        raise DataError(f"{path}: column '{frame.columns[frame.columns.duplicated()][0]}' is there twice")
    if frame.empty:
        raise DataError(f"{path}: holds no row")
    for column in _named_by_subject(table, path.parent):
        if column.name in frame:
            frame = frame.assign(**{column.name: _checked(frame[column.name], column, column.name in wanted, path)})
    if table.key in frame and frame[table.key].duplicated().any():
        raise DataError(f"{path}: {frame.loc[frame[table.key].duplicated(), table.key].iloc[0]} is listed twice")
    if {"patient", "split"} <= set(frame):
        _check_patients_apart(frame, path)
    return frame.reset_index(drop=True)


def _named_by_subject(table: Table, folder: Path) -> tuple[Column, ...]:
    """The columns of `table`; views and phases are those of the dataset in `folder`, where it is not CAMUS's heart."""
    subject = subject_of(folder)
    if subject.is_heart:
        return table.columns
    named = {_VIEW: replace(_VIEW, values=subject.views), _PHASE: replace(_PHASE, values=subject.phases)}
    return tuple(named.get(column, column) for column in table.columns)


def _check_patients_apart(frame: pd.DataFrame, path: Path) -> None:
    """Images of one heart on two sides of a split would leak: the same heart trains and tests."""
    splits = frame.groupby("patient")["split"].agg(lambda s: sorted(set(s)))
    mixed = splits[splits.map(len) > 1]
    if len(mixed):
        raise DataError(
            f"{path}: {mixed.index[0]} is in {' and in '.join(mixed.iloc[0])}; each patient belongs to one split"
        )


def _checked(values: pd.Series, column: Column, needed: bool, path: Path) -> pd.Series:  # type: ignore[type-arg]
    if needed and values.isna().any():
        raise _wrong(path, column, int(values.isna().to_numpy().argmax()), "nothing", "a value in every row")
    if column.kind == "numbers":
        return _checked_lists(values, column, path)
    if column.kind == "number":
        return _checked_numbers(values, column, path)
    return _checked_text(values, column, path)


def _wrong(path: Path, column: Column, row: int, found: object, expected: str) -> DataError:
    unit = f" {column.unit}" if column.unit else ""
    return DataError(f"{path}: column '{column.name}', row {row + 1}: found {found!r:.60}, expected {expected}{unit}")


def _checked_text(values: pd.Series, column: Column, path: Path) -> pd.Series:  # type: ignore[type-arg]
    expected = " or ".join(column.values) if column.values else "text"
    if column.kind == "name":
        expected = "a name of letters, digits, '.', '_', '+' and '-'"
    for position, value in enumerate(values):
        if not (value is None or value is pd.NA or value != value) and not _is_right_text(value, column):
            raise _wrong(path, column, position, value, expected)
    return values


def _is_right_text(value: object, column: Column) -> bool:
    if not isinstance(value, str) or (column.values and value not in column.values):
        return False
    return column.kind != "name" or re.fullmatch(_SAFE_NAME, value) is not None


def _checked_numbers(values: pd.Series, column: Column, path: Path) -> pd.Series:  # type: ignore[type-arg]
    expected = f"a number from {column.low:g} to {column.high:g}" if column.high < math.inf else "a number"
    numbers = pd.to_numeric(values, errors="coerce")
    given = values.notna().to_numpy()
    floats = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    right = np.isfinite(floats) & (floats >= column.low) & (floats <= column.high)
    wrong = given & ~right
    if values.dtype == bool or wrong.any():
        position = int(wrong.argmax())
        raise _wrong(path, column, position, values.iloc[position], expected)
    return numbers


def _checked_lists(values: pd.Series, column: Column, path: Path) -> pd.Series:  # type: ignore[type-arg]
    for position, value in enumerate(values):
        array = np.asarray(value) if isinstance(value, (list, tuple, np.ndarray)) else np.asarray("")
        points = math.isqrt(array.size // 2)
        whole = array.ndim == 1 and array.size == 2 * points * points and points > 1
        if not (whole and array.dtype.kind == "f" and np.isfinite(array).all()):
            raise _wrong(path, column, position, value, "2 x K x K finite numbers")
    return values
