"""Scores of one predicted mask against its reference: a row a structure, the rows of per_case.csv."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data.nifti import Image2D
from echo_synth.data.subject import heart
from echo_synth.metrics.components import count_components
from echo_synth.metrics.overlap import dice, structure_mask
from echo_synth.metrics.surface import surface_distances
from echo_synth.types import CaseId

PIXELS = 256  # "pixels" are those of a 256 x 256 grid, whatever the file's own


@dataclass(frozen=True)
class Metric:
    """A column of per_case.csv that is averaged, compared and reported.

    Attributes:
        heading, digits: its name and decimals in tables.
        margin: difference in its unit that is held to be of no consequence; None where none is stated.
        more_is_better: which way is good.
        most: the largest value there can be; the smallest is 0.
    """

    heading: str
    digits: int = 2
    margin: float | None = None
    more_is_better: bool = False
    most: float = math.inf


# What is listed here is a field of `CaseScore`; statistics, tables and comparisons follow this list.
METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", digits=3, margin=0.01, more_is_better=True, most=1.0),
    "hd_mm": Metric("Hausdorff, mm", margin=1.0),
    "hd95_mm": Metric("HD95, mm", margin=1.0),
    "assd_mm": Metric("ASSD, mm"),
    "hd_px": Metric("Hausdorff, px"),
}


class CaseScore(TypedDict):
    """One row of per_case.csv: one structure of one case.

    dice is in [0, 1] (NaN where both masks are empty); hd, hd95 and assd are in mm at the mask's own
    spacing, hd_px in pixels of a 256 x 256 grid. An empty prediction of a structure that is there
    (`empty_prediction`) has Dice 0 and the image's diagonal as every distance: the worst that a
    prediction inside the image could score. components counts the 8-connected parts of the prediction:
    more than one means islands.
    """

    case: str
    patient: str
    view: str
    phase: str
    structure: str
    dice: float
    hd_mm: float
    hd95_mm: float
    assd_mm: float
    hd_px: float
    empty_prediction: bool
    components: int


def score_masks(
    case: str, prediction: Image2D, reference: Image2D, structures: Mapping[str, Sequence[int]] | None = None
) -> list[CaseScore]:
    """Scores of every structure of one case; both masks on one grid (`masks.check_pair`).

    Args:
        structures: labels of each; by default those of CAMUS's heart.
    """
    identity = CaseId.of(case)
    rows, columns = reference.pixels.shape
    pixel_grid = (PIXELS / rows, PIXELS / columns)
    scores = []
    for name, values in (structures or heart().structures).items():
        predicted = structure_mask(prediction.pixels, values)  # type: ignore[arg-type]
        truth = structure_mask(reference.pixels, values)  # type: ignore[arg-type]
        mm, px = _penalised(predicted, truth, reference.spacing), _penalised(predicted, truth, pixel_grid)
        score = CaseScore(
            case=case,
            patient=identity.patient,
            view=identity.view,
            phase=identity.phase,
            structure=name,
            dice=dice(predicted, truth),
            hd_mm=mm["hd"],
            hd95_mm=mm["hd95"],
            assd_mm=mm["assd"],
            hd_px=px["hd"],
            empty_prediction=bool(truth.any() and not predicted.any()),
            components=count_components(predicted),
        )
        scores.append(score)
    return scores


def score_table(scores: Iterable[CaseScore]) -> pd.DataFrame:
    """per_case.csv: columns as the fields of `CaseScore`, in their order."""
    return pd.DataFrame(list(scores), columns=list(CaseScore.__annotations__))


def _penalised(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float]) -> dict[str, float]:
    if a.any() != b.any():
        diagonal = float(np.hypot(a.shape[0] * spacing[0], a.shape[1] * spacing[1]))
        return {"hd": diagonal, "hd95": diagonal, "assd": diagonal}
    return asdict(surface_distances(a, b, spacing))
