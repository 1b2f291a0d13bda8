"""What a dataset shows: its views, phases and labels by name. CAMUS's heart, or what a spec of `convert` describes.

The networks know two views, two phases and three labelled tissues by number; here the numbers get names.
A dataset of CAMUS's heart has no file of this; any other keeps subject.json beside its tables, and so do the maps,
synthetic datasets and mixtures that are made of it.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from echo_synth import specs
from echo_synth.errors import DataError
from echo_synth.files import write_json
from echo_synth.records import read_json_as
from echo_synth.specs import Strict
from echo_synth.types import PHASES, VIEWS

SUBJECT = "subject.json"
STILL = "still"  # the one phase of a dataset without phases
MOST_LABELS = 3  # tissue ids 1 to 3; 4 is other tissue, 0 outside the sector
MOST_VIEWS = MOST_PHASES = 2

# Between "_" in case names, which are file names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,39}$")]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")]


class Subject(Strict):
    """What is seen in a dataset's images.

    Attributes:
        title: in words, e.g. "fetal head".
        views, phases: one or two, in the order of the networks' classes: frame = view + 2 x phase.
        labels: nnU-Net label, which is the tissue id, of each label by name: 1 to 3 at most, without gaps.
        structures: what is judged: unions of labels.
    """

    title: Annotated[str, Field(min_length=1, max_length=200)]
    views: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_VIEWS)]
    phases: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_PHASES)]
    labels: Annotated[dict[Label, int], Field(min_length=1, max_length=MOST_LABELS)]
    structures: Annotated[dict[Label, tuple[int, ...]], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _fits(self) -> Subject:
        numbers = sorted(self.labels.values())
        if numbers != list(range(1, len(numbers) + 1)) or "background" in self.labels:
            raise ValueError(f"labels have the numbers {numbers}, expected 1 to {len(numbers)}, and no 'background'")
        for name, values in self.structures.items():
            if not values or not set(values) <= set(numbers):
                raise ValueError(f"structure '{name}' is {list(values)}, expected some of the labels {numbers}")
        if len(set(self.views)) < len(self.views) or len(set(self.phases)) < len(self.phases):
            raise ValueError("a view or a phase is there twice")
        return self

    @property
    def is_heart(self) -> bool:
        """Whether it is CAMUS's heart, of which volumes, ejection fraction and shapes are measured."""
        return self == heart()

    @property
    def nnunet_labels(self) -> dict[str, int]:
        """Labels of nnU-Net's dataset.json, background first."""
        if self.is_heart:
            return specs.labels().nnunet_labels
        return {"background": 0} | dict(sorted(self.labels.items(), key=lambda item: item[1]))

    def frame(self, view: str, phase: str) -> int:
        """Kind of image for the networks, 0 to 3: view + 2 x phase. Raises ValueError for an unknown view or phase."""
        return self.views.index(view) + MOST_VIEWS * self.phases.index(phase)

    def key(self) -> str:
        """Short text that two datasets share only where the same classes mean the same; empty for CAMUS's heart."""
        return "" if self.is_heart else hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


@cache
def heart() -> Subject:
    """CAMUS's, by data_specs/labels.yaml."""
    known = specs.labels()
    labels = {name: value for name, value in known.nnunet_labels.items() if value}
    title = "heart, apical views"
    return Subject(title=title, views=VIEWS, phases=PHASES, labels=labels, structures=known.structures)


def subject_of(folder: Path) -> Subject:
    """What the dataset, maps or tables in `folder` show: CAMUS's heart unless subject.json says otherwise.

    Raises DataError when subject.json is damaged.
    """
    file = folder / SUBJECT
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        return heart()
    return _read_subject(file, changed)


@lru_cache(maxsize=64)
def _read_subject(file: Path, changed: int) -> Subject:
    return read_json_as(Subject, file, "echosynth convert", 1 << 16)


def write_subject(folder: Path, subject: Subject) -> None:
    """Write subject.json into `folder`; nothing for CAMUS's heart."""
    if not subject.is_heart:
        write_json(folder / SUBJECT, subject.model_dump())


def need_heart(subject: Subject, what: str, instead: str) -> None:
    """Raise DataError where hearts are measured and none is seen.

    Args:
        what: for whom, e.g. "--recipe anatomy".
        instead: what to do.
    """
    if not subject.is_heart:
        raise DataError(f"{what}: is for hearts in CAMUS's views, this dataset shows '{subject.title}'; {instead}")
