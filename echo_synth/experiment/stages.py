"""Cells of a sweep and the stages each takes. A stage is known by a hash of everything that decides its outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

HASH_DIGITS = 12

StageKind = Literal["data", "segmenter", "predict", "classifier", "quality", "evaluate"]
# Kinds of data that are drawn from maps into a dataset of their own: by a trained model, by physics, by noise.
DRAWN_KINDS = ("synthetic", "bmode", "noise")
IMPORTED = "imported"  # kind of data that is there already, by import-images
OWN_KINDS = (*DRAWN_KINDS, IMPORTED)  # kinds of data whose images are synthetic, all of them, and the cell's own
# Inside stages: drawn by a generator; mixed or filtered from other datasets.
DRAWN_ID, DERIVED_ID = OWN_IDS = (601, 602)
Setting = str | int | float | None  # a value of JSON


@dataclass(frozen=True)
class Stage:
    """One step of a cell, in a folder of its own.

    Attributes:
        kind: what is done.
        config: what decides the outcome besides earlier stages.
        needs: earlier stages by role.
    """

    kind: StageKind
    config: Mapping[str, Setting]
    needs: Mapping[str, Stage] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of kind, config and the keys of what it needs."""
        content = [self.kind, dict(self.config), {role: s.key for role, s in sorted(self.needs.items())}]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]

    @property
    def folder(self) -> str:
        """Name of its output folder."""
        return f"{self.kind}-{self.key}"


@dataclass(frozen=True)
class Cell:
    """One row of the experiment's table.

    Attributes:
        name: unique.
        columns: its columns of results.csv: kind, model, nfe, seed, …
        stages: in order; each after what it needs.
        dataset: its name without the seed of the segmenter.
        arm: its name without any seed: what repeats share.
    """

    name: str
    columns: Mapping[str, Setting]
    stages: tuple[Stage, ...]
    dataset: str = ""
    arm: str = ""

    def stage(self, kind: StageKind) -> Stage | None:
        """The stage of that kind."""
        return next((s for s in self.stages if s.kind == kind), None)


def imported_name(dataset_id: int) -> str:
    """Under which the fingerprint of an imported dataset is kept; no row can have that name."""
    return f"dataset {dataset_id}"


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """`stages` and all that they need, each once and after what it needs."""
    ordered: dict[str, Stage] = {}
    for stage in stages:
        for needed in (*in_order(tuple(stage.needs.values())), stage):
            ordered.setdefault(needed.key, needed)
    return list(ordered.values())
