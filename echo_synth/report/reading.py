"""Readers of what the page shows: each gives a file's content, or raises DataError that names the file and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from echo_synth import specs
from echo_synth.data.tables import Column, Table, read_table
from echo_synth.errors import DataError
from echo_synth.evaluation.case_scores import METRICS
from echo_synth.evaluation.looks import LOOKS, OUTCOMES
from echo_synth.files import read_json
from echo_synth.report import tables
from echo_synth.report.schemas import MetricsFile, QualityFile
from echo_synth.report.sweep_rows import MONEY
from echo_synth.types import VIEWS as HEART_VIEWS

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PNG_BYTES = 1 << 25

HISTORY = Table(
    "history.csv",
    "echosynth train",
    "",
    (
        Column("images", "number", "seen so far", needed=True, low=0, high=1e12),
        Column("split", "text", "of which the value is", needed=True),
        Column("name", "text", "of the value, e.g. loss", needed=True),
        Column("value", "number", "mean since the row before", needed=True),
    ),
)


def _scores(names: Mapping[str, object], suffixes: tuple[str, ...]) -> list[Column]:
    return [Column(f"{name}{suffix}", "number", "a score") for name in names for suffix in suffixes]


SWEEP_RESULTS = Table(
    "results.csv",
    "echosynth sweep",
    "cell",
    (
        Column("cell", "text", "name of the cell", needed=True),
        Column("state", "text", "done, or stages done of all", needed=True),
        Column("count", "number", "images drawn", low=0),
        Column("seconds_per_image", "number", "of drawing", "s", low=0),
        Column(MONEY, "number", "of drawing 1000 images, in the currency of --price", low=0),
        Column("segmenter_seed", "number", "of the training, where it is repeated"),
        Column("images_of", "text", "the first dataset with the images of this one, where they were judged"),
        Column("covers", "text", "what the intervals know of"),
        *_scores(tables.SWEEP_SCORES, ("", "_low", "_high")),
        *(Column(look.column, "number", "how real the images look") for look in LOOKS.values()),
    ),
)

COMPARISONS = Table(
    "comparisons.csv",
    "echosynth sweep",
    "",
    (
        *(Column(name, "text", "name", needed=True) for name in tables.COMPARISON_NAMES),
        *(Column(name, "text", "what is compared", needed=True) for name in ("structure", "metric")),
        *(Column(name, "number", "of the difference", needed=False) for name in ("difference", "low", "high")),
        Column("p_holm", "number", "after Holm's correction", low=0, high=1),
        Column("covers", "text", "what interval and p know of"),
        *(
            Column(name, "number", "how many", low=0)
            for name in ("n_images", "n_patients", "of_images", "of_patients", "trainings_without_value")
        ),
    ),
)


_MOST_SEEDS = 2**63
PER_CASE = Table(
    "per_case.csv",
    "echosynth bootstrap-eval",
    "",
    (
        Column("case", "name", "name of the image", needed=True),
        Column("patient", "name", "whose it is", needed=True),
        Column("structure", "name", "which is judged", needed=True),
        *(Column(name, "number", "a score", needed=True) for name in METRICS),
        Column("generator_seed", "number", "of the images that trained", low=0, high=_MOST_SEEDS),
        Column("segmenter_seed", "number", "of the training", low=0, high=_MOST_SEEDS),
    ),
)

_FRACTIONS = ("ef_percent", "ef_percent_reference")
VOLUMES = Table(
    "volumes.csv",
    "echosynth bootstrap-eval",
    "",
    (
        Column("patient", "name", "whose heart it is", needed=True),
        Column("convention", "text", "of the discs' height", needed=True),
        *(Column(name, "number", "ejection fraction; empty without a cavity", "%") for name in _FRACTIONS),
    ),
)
VIEWS = Table(
    "views.csv",
    "echosynth bootstrap-eval",
    "",
    (
        Column("patient", "name", "whose image it is", needed=True),
        Column("view", "text", "of the image", needed=True, values=HEART_VIEWS),
        Column(f"probability_{HEART_VIEWS[1]}", "number", "that the classifier states", needed=True, low=0, high=1),
    ),
)
_RANKED = ("rho", "low", "high")
CORRELATIONS = Table(
    "correlations.csv",
    "echosynth sweep",
    "",
    (
        Column("measure", "text", "of looks", needed=True, values=tuple(LOOKS)),
        Column("outcome", "text", "of trainings", needed=True, values=tuple(OUTCOMES)),
        *(Column(name, "text", "which way", needed=True, values=("low", "high")) for name in ("real_is", "better_is")),
        *(Column(name, "number", "of the rank correlation", low=-1, high=1) for name in _RANKED),
        Column("cells", "number", "datasets that count", needed=True, low=0),
    ),
)


def read_volumes(path: Path) -> pd.DataFrame:
    """volumes.csv of an evaluation, a row a patient and convention, columns of VOLUMES and others."""
    return _with_all(read_table(path, VOLUMES), _FRACTIONS, path, VOLUMES)


def read_views(path: Path) -> pd.DataFrame:
    """views.csv of an evaluation, a row an image, columns of VIEWS and others."""
    return read_table(path, VIEWS)


def read_correlations(path: Path) -> pd.DataFrame:
    """correlations.csv of a sweep; a number that could not be had is NaN."""
    return _with_all(read_table(path, CORRELATIONS), _RANKED, path, CORRELATIONS)


def _with_all(table: pd.DataFrame, names: Sequence[str], path: Path, declared: Table) -> pd.DataFrame:
    """`table`, which has these columns, whose cells may be empty; else DataError."""
    lacking = [name for name in names if name not in table]
    if lacking:
        raise DataError(f"{path}: no column '{lacking[0]}'; expected the {declared.file} of '{declared.made_by}'")
    return table


def read_scores(path: Path) -> pd.DataFrame:
    """per_case.csv of an evaluation, a row a case and structure, columns of PER_CASE and others."""
    return read_table(path, PER_CASE)


def read_history(path: Path) -> pd.DataFrame:
    """history.csv of a run that has logged something, columns of HISTORY and others."""
    return read_table(path, HISTORY)


def read_sweep_results(path: Path) -> pd.DataFrame:
    """results.csv of a sweep; a score that has a mean has both ends of its interval."""
    table = read_table(path, SWEEP_RESULTS)
    for score in (s for s in tables.SWEEP_SCORES if s in table):
        lacking = [f"{score}{end}" for end in ("_low", "_high") if f"{score}{end}" not in table]
        if lacking:
            raise DataError(f"{path}: no column '{lacking[0]}'; expected the results.csv of 'echosynth sweep'")
    return table


def read_comparisons(path: Path) -> pd.DataFrame:
    """comparisons.csv of a sweep; a number that could not be had is NaN."""
    return _with_all(read_table(path, COMPARISONS), ("difference", "low", "high", "p_holm"), path, COMPARISONS)


def read_metrics(path: Path) -> Mapping[str, Any]:
    """metrics.json of bootstrap-eval, checked against `MetricsFile`."""
    content = _read_object(path, "bootstrap-eval")
    if content and not {key for key, part in content.items() if part is not None} & set(MetricsFile.model_fields):
        raise DataError(
            f"{path}: has none of the parts of an evaluation; expected the one of 'echosynth bootstrap-eval'"
        )
    return _checked(path, content, MetricsFile, "bootstrap-eval")


def read_quality(path: Path) -> Mapping[str, Any]:
    """quality.json of quality, checked against `QualityFile`."""
    return _checked(path, _read_object(path, "quality"), QualityFile, "quality")


def read_settings(path: Path) -> Mapping[str, Any]:
    """settings.json of any command; empty where there is none."""
    return _read_object(path, "a command") if path.is_file() else {}


def read_png(path: Path) -> bytes:
    """The bytes of a PNG file."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_PNG_BYTES + 1)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e})") from None
    if not content.startswith(_PNG) or len(content) > _MOST_PNG_BYTES:
        raise DataError(f"{path}: not a PNG image of at most {_MOST_PNG_BYTES >> 20} MiB")
    return content


def _read_object(path: Path, made_by: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected the JSON object of 'echosynth {made_by}'")
    return content


def _checked(path: Path, content: dict[str, Any], schema: type[BaseModel], made_by: str) -> Mapping[str, Any]:
    """`content` itself once it fits: what the schema does not name is kept."""
    try:
        schema.model_validate(content)
    except ValidationError as e:
        first = specs.first_error(e)
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: {where:.200}: {first['msg']:.100}; expected the {path.name} of 'echosynth {made_by}'"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: nested without end") from None
    return content
