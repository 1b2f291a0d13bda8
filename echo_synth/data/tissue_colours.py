"""The colours of tissues, from data_specs/labels.yaml, for condition maps, previews, outlines, overlays and legends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.subject import Subject


@dataclass(frozen=True)
class Key:
    """A line of a legend: what is seen, and its colour as #rrggbb."""

    name: str
    colour: str


def tissue_colours() -> NDArray[np.uint8]:
    """RGB (tissues, 3) uint8 by tissue id."""
    return np.asarray([tissue.colour for tissue in specs.labels().tissues.values()], np.uint8)


def tissue_colour(tissue: int) -> str:
    """The colour of one tissue id as #rrggbb."""
    red, green, blue = tissue_colours()[tissue]
    return f"#{red:02x}{green:02x}{blue:02x}"


def tissue_image(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue ids (H, W) as RGB (H, W, 3) uint8."""
    return np.asarray(tissue_colours()[tissues])


def legend(subject: Subject) -> list[Key]:
    """A line for each label of what a dataset shows; labels are the ids of their tissues."""
    return [Key(in_words(name), tissue_colour(number)) for name, number in subject.labels.items()]


def in_words(name: str) -> str:
    """Name of a label or structure as it is shown: 'LV endocardium' for lv_endocardium."""
    return name.replace("_", " ").replace("lv ", "LV ")
