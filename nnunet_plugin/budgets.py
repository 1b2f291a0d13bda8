"""What a training with each trainer is: budgets.json, read by the trainers and by everything that compares or announces them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

FILE = Path(__file__).with_name("budgets.json")


@dataclass(frozen=True)
class Budget:
    """Length and size of a training.

    Attributes:
        epochs, iterations: passes, and steps of the optimiser in each.
        validation_iterations: batches that each epoch is judged by.
        batch: images a step.
        rate: highest learning rate of the optimiser.
        schedule: how the rate falls to 0, "poly" by epoch as in nnU-Net, or "cosine" by iteration.
        width: factor on the planned numbers of features.
        network: "planned" by nnU-Net; "pooled", one stage less between 2 x 2 averaging and bilinear
            enlargement; "subpixel", one stage less on 2 x 2 blocks of pixels.
        full_validation: whether nnU-Net's validation by sliding window follows the training.
        optimizer: "adam", or "muon": matrices and convolutions by Muon, the rest by NAdam.
    """

    epochs: int
    iterations: int
    validation_iterations: int
    batch: int
    rate: float
    schedule: Literal["poly", "cosine"]
    width: float
    network: Literal["planned", "pooled", "subpixel"]
    full_validation: bool
    optimizer: Literal["adam", "muon"] = "adam"

    def __post_init__(self) -> None:
        """Raise ValueError for a name that is none: a trainer would take another one in silence."""
        known = {
            "schedule": ("poly", "cosine"),
            "network": ("planned", "pooled", "subpixel"),
            "optimizer": ("adam", "muon"),
        }
        for field, names in known.items():
            if (found := getattr(self, field)) not in names:
                raise ValueError(f"{FILE.name}: {field} is {found!r}, expected one of {', '.join(names)}")

    @property
    def images(self) -> int:
        """Training images seen, repeats counted."""
        return self.epochs * self.iterations * self.batch


@cache
def budgets() -> dict[str, Budget]:
    """Every trainer of the plugin by name."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Budget(**values) for name, values in content.items()}


def budget_of(trainer: type) -> Budget:
    """The budget of a trainer class, or of the nearest of its bases that has one. Raises KeyError when none has."""
    known = budgets()
    for cls in trainer.__mro__:
        if cls.__name__ in known:
            return known[cls.__name__]
    raise KeyError(trainer.__name__)
