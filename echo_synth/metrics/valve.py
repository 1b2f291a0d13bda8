"""The ends of the mitral valve in a mask, such that a gap in a predicted wall does not move it.

The valve is where the cavity meets the left atrium. In every reference mask of CAMUS the part of
the cavity's outline without myocardium beside it is one run, and all of it touches the atrium, so
the definitions below agree there. They part where a prediction's wall has gaps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
_NEAR_MM = 3.0  # an atrium so near meets the cavity; a wall is two to four times as thick
_MOSTLY = 0.5
_STEPS_MM = (1.5, 3.0, 4.5, 6.0)  # how far a wall that has come off is sought
_TOUCHING = np.ones((3, 3))


def valve_ends(cavity: Mask, myocardium: Mask, atrium: Mask, spacing: tuple[float, float]) -> Points:
    """Both ends of the mitral valve, (2, 2): (row, column) in mm from the first pixel.

    Where the atrium touches the cavity or lies within 3 mm of it, the ends are the two points of
    that contact that lie farthest apart. Without such an atrium they are those of the longest
    connected run of outline without myocardium beside it. Without a wall either, they are one and
    the same point: the deeper end of the cavity's greatest extent, the apex being near the probe.

    Args:
        cavity: (H, W), one component, not empty, without holes.
        myocardium, atrium: (H, W), may be empty or in pieces.
        spacing: size of a pixel, (row, column), mm.
    """
    outline = cavity & ~ndimage.binary_erosion(cavity)
    free = _free_of_wall(outline, myocardium, spacing)
    contact = _contact(outline, free, atrium, spacing)
    if contact.any():
        return _farthest_pair(contact, spacing)
    if myocardium.any() and free.any():
        return _longest_run(free, spacing)
    extent = _farthest_pair(outline, spacing)
    return np.repeat(extent[[extent[:, 0].argmax()]], 2, axis=0)


def _free_of_wall(outline: Mask, myocardium: Mask, spacing: tuple[float, float]) -> Mask:
    """The outline without myocardium beside it; where the wall has come off all round, without any a few millimetres away."""
    free = outline & ~ndimage.binary_dilation(myocardium, _TOUCHING)
    if free.sum() <= _MOSTLY * outline.sum() or not myocardium.any():
        return free
    distance = ndimage.distance_transform_edt(~myocardium, sampling=spacing)
    apart = (outline & (distance > step) for step in _STEPS_MM)
    return next((far for far in apart if far.sum() <= _MOSTLY * outline.sum()), free)


def _contact(outline: Mask, free: Mask, atrium: Mask, spacing: tuple[float, float]) -> Mask:
    """The outline's points that touch the atrium, or lie near it where most of them do not touch it.

    Of these the ones without myocardium beside them, unless it covers most of them.
    """
    if not atrium.any():
        return np.zeros_like(outline)
    near = outline & (ndimage.distance_transform_edt(~atrium, sampling=spacing) <= max(_NEAR_MM, *spacing))
    touching = near & ndimage.binary_dilation(atrium, _TOUCHING)
    enough = _MOSTLY * _extent(near, spacing)
    candidates = (touching & free, touching, near & free)
    return next((points for points in candidates if points.any() and _extent(points, spacing) >= enough), near)


def _longest_run(free: Mask, spacing: tuple[float, float]) -> Points:
    """Ends of the 8-connected run of points that extends farthest."""
    labelled, count = ndimage.label(free, structure=_TOUCHING)
    runs = [_farthest_pair(labelled == i, spacing) for i in range(1, count + 1)]
    return max(runs, key=lambda ends: float(np.linalg.norm(ends[1] - ends[0])))


def _extent(points: Mask, spacing: tuple[float, float]) -> float:
    if not points.any():
        return 0.0
    ends = _farthest_pair(points, spacing)
    return float(np.linalg.norm(ends[1] - ends[0]))


def _farthest_pair(mask: Mask, spacing: tuple[float, float]) -> Points:
    """The two points of a mask that lie farthest apart, (2, 2) mm; twice the same where there is one."""
    from scipy.spatial.distance import pdist, squareform  # slow to import, and most commands measure no valve

    points = np.argwhere(mask) * np.asarray(spacing)
    if len(points) == 1:
        return np.repeat(points, 2, axis=0).astype(np.float64)
    apart = squareform(pdist(points))
    ends: Points = points[list(np.unravel_index(apart.argmax(), apart.shape))]
    return ends
