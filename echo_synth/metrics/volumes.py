"""Left-ventricular volume by the biplane method of discs, and the ejection fraction that follows.

Two conventions for the height of a disc:

* clinical (ASE/EACVI, Lang 2015): at each phase, the longer of the two views' own long axes / 20;
* CAMUS's own (CREATIS; the ejection fractions (EF) in its cfg files are computed like this): one height for both
  phases, the longest of all four long axes / 20.

At end-systole the ventricle is shorter. Only the clinical convention takes this into account; it gives an EF several
points higher from the same masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from echo_synth.metrics.components import largest_component
from echo_synth.metrics.valve import valve_ends

DISCS = 20
Convention = Literal["camus", "clinical"]
_FINE = 4  # parts a pixel is cut into, each way, before its area is given to a disc


@dataclass(frozen=True)
class LongAxis:
    """The ventricle of one view cut into discs.

    Attributes:
        length: from the middle of the mitral plane to the apex, mm.
        diameters: (DISCS,) widths at equal steps along the axis, base first, mm.
    """

    length: float
    diameters: NDArray[np.float64]


@dataclass(frozen=True)
class Volumes:
    """End-diastolic and end-systolic volume, ml."""

    edv: float
    esv: float

    @property
    def ef(self) -> float:
        """Ejection fraction, %; NaN without an end-diastolic volume."""
        return 100 * (1 - self.esv / self.edv) if self.edv > 0 else float("nan")


def long_axis(
    cavity: NDArray[np.bool_],
    myocardium: NDArray[np.bool_],
    spacing: tuple[float, float],
    atrium: NDArray[np.bool_] | None = None,
) -> LongAxis:
    """Long axis and disc diameters of a ventricle (H, W), of its largest component with holes filled.

    The axis runs from the middle of the mitral valve (`valve.valve_ends`: the contact with the
    atrium, or the longest gap in the wall) to the point of the cavity that is farthest from it,
    the apex. A diameter is the area of the cavity's slice divided by the slice's height.

    Args:
        spacing: size of a pixel, (row, column), mm.
        atrium: the left atrium, of which the largest component counts; None if there is no mask of it.

    Returns:
        length and diameters of 0 for an empty cavity.
    """
    cavity = ndimage.binary_fill_holes(largest_component(cavity))
    if not cavity.any():
        return LongAxis(0.0, np.zeros(DISCS))
    pixel = np.asarray(spacing)
    atrium = np.zeros_like(cavity) if atrium is None else largest_component(atrium)
    middle = valve_ends(cavity, myocardium, atrium, spacing).mean(0)
    points = np.argwhere(cavity) * pixel
    apex = points[np.linalg.norm(points - middle, axis=1).argmax()]
    length = float(np.linalg.norm(apex - middle))
    if length == 0:
        return LongAxis(0.0, np.zeros(DISCS))
    # Area by disc: the centres of small parts of each pixel, projected onto the axis.
    offsets = (np.arange(_FINE) + 0.5) / _FINE - 0.5
    parts = (np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2) * pixel)[:, None]
    along = ((points + parts - middle) @ ((apex - middle) / length)).ravel()
    area, _ = np.histogram(along, bins=DISCS, range=(0, length))
    return LongAxis(length, area * (pixel.prod() / _FINE**2) / (length / DISCS))


def biplane_volumes(axes: Mapping[tuple[str, str], LongAxis], convention: Convention) -> Volumes:
    """Volumes from the long axes of ("2CH" | "4CH", "ED" | "ES"): π/4 Σ a b h over the discs, in ml.

    Raises KeyError if one of the four is missing.
    """
    volumes = {}
    for phase in ("ED", "ES"):
        two, four = axes["2CH", phase], axes["4CH", phase]
        lengths = [two.length, four.length]
        if convention == "camus":
            lengths = [axes[v, p].length for v in ("2CH", "4CH") for p in ("ED", "ES")]
        volumes[phase] = float(np.pi / 4 * (two.diameters * four.diameters).sum() * max(lengths) / DISCS / 1000)
    return Volumes(volumes["ED"], volumes["ES"])
