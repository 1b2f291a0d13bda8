"""What is measured of a map's heart, so that a deformation can be told from a disfigurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from echo_synth.metrics.components import largest_component
from echo_synth.metrics.valve import valve_ends
from echo_synth.metrics.volumes import LongAxis, biplane_volumes, long_axis

_CAVITY, _MYOCARDIUM, _ATRIUM = 1, 2, 3
_THIN = 5  # percentile of the wall's thickness that stands for its thin places
_MARGIN = 12  # pixels of background that are kept around the heart
_SPECK = 10  # pixels; a smaller piece comes from the grid, not from the annotator


@dataclass(frozen=True)
class HeartShape:
    """Measurements of one tissue map (H, W), in pixels of the map.

    Attributes:
        areas: of cavity, myocardium and atrium.
        components: pieces of the three, specks left out.
        solidity: area of the cavity by that of its convex hull; 0 without a cavity.
        wall: thickness of the myocardium at its thin places; NaN without one beside the cavity.
        valve_deg: angle of the mitral valve to the ventricle's long axis, degrees; 90 is square, NaN without either.
        atrium: solidity of the atrium's largest piece; NaN without one.
    """

    areas: tuple[int, int, int]
    components: tuple[int, int, int]
    solidity: float
    wall: float
    valve_deg: float
    atrium: float


def heart_shape(tissues: NDArray[np.uint8]) -> HeartShape:
    """Measure a tissue map, (H, W) uint8."""
    cut = _cut_out(tissues)
    parts = [cut == value for value in (_CAVITY, _MYOCARDIUM, _ATRIUM)]
    cavity, myocardium, atrium = parts
    pieces = [_pieces(p) for p in parts]
    areas = [int(p.sum()) for p in parts]
    counted = ((areas[0], areas[1], areas[2]), (pieces[0], pieces[1], pieces[2]))
    round_atrium = _solidity(largest_component(atrium)) if areas[2] else float("nan")
    if not cavity.any():
        return HeartShape(*counted, 0.0, float("nan"), float("nan"), round_atrium)
    wall, angle = _thin_wall(cavity, myocardium), _valve_angle(cavity, myocardium, atrium)
    return HeartShape(*counted, _solidity(cavity), wall, angle, round_atrium)


def _cut_out(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The heart with a margin: everything else costs time and changes nothing."""
    heart = np.isin(tissues, (_CAVITY, _MYOCARDIUM, _ATRIUM))
    if not heart.any():
        return tissues
    rows, columns = np.nonzero(heart.any(1))[0], np.nonzero(heart.any(0))[0]
    top, left = max(0, rows[0] - _MARGIN), max(0, columns[0] - _MARGIN)
    return tissues[top : rows[-1] + _MARGIN, left : columns[-1] + _MARGIN]


def _pieces(part: NDArray[np.bool_]) -> int:
    labelled, _ = ndimage.label(part, np.ones((3, 3)))
    return int((np.bincount(labelled.ravel())[1:] >= _SPECK).sum())


def _solidity(part: NDArray[np.bool_]) -> float:
    from scipy.spatial import ConvexHull, QhullError  # slow to import, and whoever reads maps imports this file

    outline = part & ~ndimage.binary_erosion(part)
    corners = (np.argwhere(outline)[:, None] + [[0, 0], [0, 1], [1, 0], [1, 1]]).reshape(-1, 2)
    try:
        return float(part.sum() / ConvexHull(corners).volume)  # of a plane figure, the volume is its area
    except QhullError:
        return 0.0


def _thin_wall(cavity: NDArray[np.bool_], myocardium: NDArray[np.bool_]) -> float:
    """Low percentile, over the cavity's outline beside the wall, of the way through the wall to what is outside."""
    beside = cavity & ndimage.binary_dilation(myocardium)
    if not beside.any():
        return float("nan")
    through = ndimage.distance_transform_edt(cavity | myocardium)
    return float(np.percentile(through[beside], _THIN))


def _valve_angle(cavity: NDArray[np.bool_], myocardium: NDArray[np.bool_], atrium: NDArray[np.bool_]) -> float:
    whole = ndimage.binary_fill_holes(largest_component(cavity))
    ends = valve_ends(whole, myocardium, largest_component(atrium), (1.0, 1.0))
    middle, chord = ends.mean(0), ends[1] - ends[0]
    points = np.argwhere(whole)
    axis = points[np.linalg.norm(points - middle, axis=1).argmax()] - middle
    lengths = float(np.linalg.norm(chord) * np.linalg.norm(axis))
    if lengths == 0:
        return float("nan")
    return float(np.rad2deg(np.arccos(np.clip(abs(chord @ axis) / lengths, -1, 1))))


def ventricle(tissues: NDArray[np.uint8], spacing: tuple[float, float]) -> LongAxis:
    """Long axis and discs of a tissue map, mm."""
    cut = _cut_out(tissues)
    return long_axis(cut == _CAVITY, cut == _MYOCARDIUM, spacing, cut == _ATRIUM)


def ejection_fraction(axes: Mapping[tuple[str, str], LongAxis]) -> float:
    """EF in % by both views and phases, in CAMUS's convention; NaN where one of the four is missing or empty."""
    wanted = {(view, phase) for view in ("2CH", "4CH") for phase in ("ED", "ES")}
    if not wanted <= axes.keys() or any(axes[key].length == 0 for key in wanted):
        return float("nan")
    return biplane_volumes(axes, "camus").ef
