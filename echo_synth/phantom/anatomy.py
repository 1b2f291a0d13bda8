"""Parameterised hearts in apical views: outlines in millimetres, probe at the origin, depth downwards.

Sizes follow the adult ranges of Lang et al. 2015 (ASE/EACVI chamber quantification).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]  # (points, 2): lateral, depth; mm


@dataclass(frozen=True)
class Heart:
    """One patient's heart; lengths in mm, at end-diastole.

    Attributes:
        ef: ejection fraction, fraction of the end-diastolic volume.
        length: LV long axis, apex to mitral plane.
        widths: LV diameter at its widest, for 2CH and 4CH.
        squareness: exponent of the bullet: 2 is a half ellipse, more is squarer.
        wall: myocardial thickness at mid-wall.
        atrium: LA length and its width relative to the annulus.
        rv_width: RV cavity at its widest, seen in 4CH.
    """

    ef: float
    length: float
    widths: tuple[float, float]
    squareness: float
    wall: float
    atrium: tuple[float, float]
    rv_width: float


@dataclass(frozen=True)
class Pose:
    """How one view sees the heart: apex position (lateral, depth, mm), tilt (rad), bend of the long axis (mm)."""

    apex: tuple[float, float]
    tilt: float
    bend: float
    sector_depth: float
    half_angle: float


@dataclass(frozen=True)
class Outlines:
    """Closed outlines of one case, mm."""

    endocardium: Outline
    epicardium: Outline
    atrium: Outline
    right_ventricle: Outline | None
    right_atrium: Outline | None
    valve: Outline


def draw_heart(rng: np.random.Generator) -> Heart:
    """A heart. EF is spread as in CAMUS: mostly 40 to 65 %, with a tail of severe dysfunction."""
    severe = rng.random() < 0.2
    ef = float(np.clip(rng.normal(0.30, 0.08) if severe else rng.normal(0.54, 0.08), 0.12, 0.75))
    dilation = 1.0 + 0.35 * max(0.0, 0.45 - ef) / 0.3
    width = rng.uniform(40, 50) * dilation
    return Heart(
        ef=ef,
        length=rng.uniform(76, 96) * (1 + 0.3 * (dilation - 1)),
        widths=(width * rng.uniform(0.92, 1.05), width * rng.uniform(0.95, 1.08)),
        squareness=rng.uniform(2.0, 3.2),
        wall=rng.uniform(8.0, 12.5),
        atrium=(rng.uniform(34, 56), rng.uniform(0.85, 1.15)),
        rv_width=rng.uniform(22, 34),
    )


def contract(heart: Heart) -> Heart:
    """The heart at end-systole: volume reduced by exactly its EF, walls thicker, atrium filled.

    Length takes a quarter of the (logarithmic) volume change, both widths the rest:
    length x width x width scales by 1 − EF.
    """
    remaining = 1 - heart.ef
    along, across = remaining**0.25, remaining**0.375
    return replace(
        heart,
        length=heart.length * along,
        widths=(heart.widths[0] * across, heart.widths[1] * across),
        wall=heart.wall * (1 + 0.55 * heart.ef),
        atrium=(heart.atrium[0] * (1 + 0.25 * heart.ef), heart.atrium[1] * 1.05),
        rv_width=heart.rv_width * (1 - 0.35 * heart.ef),
    )


def volume_ml(heart: Heart) -> float:
    """LV volume by the disc summation of both views' analytic widths, ml."""
    s = (np.arange(20) + 0.5) / 20
    area = np.pi / 4 * _profile(s, heart.squareness) ** 2 * heart.widths[0] * heart.widths[1]
    return float(area.sum() * heart.length / 20 / 1000)


def draw_pose(rng: np.random.Generator, heart: Heart, view: str) -> Pose:
    """Where the probe stands; the sector is deep enough for the atrium."""
    apex_depth = rng.uniform(14, 26)
    depth = apex_depth + heart.length + heart.atrium[0] * rng.uniform(1.0, 1.35) + rng.uniform(4, 18)
    side = rng.uniform(-4, 10) if view == "4CH" else rng.uniform(-8, 8)
    return Pose(
        apex=(side * 0.4, apex_depth),
        tilt=np.deg2rad(rng.normal(-4 if view == "4CH" else 2, 6)),
        bend=rng.normal(0, 3),
        sector_depth=depth,
        half_angle=np.deg2rad(rng.uniform(34, 44)),
    )


def outline(heart: Heart, pose: Pose, view: str, systole: bool) -> Outlines:
    """All outlines of a case. At end-systole the apex stays and the mitral plane has moved towards it."""
    shown = contract(heart) if systole else heart
    width = shown.widths[0 if view == "2CH" else 1]
    place = _placer(pose, shown.length)
    endocardium = place(_bullet(width, shown.length, shown.squareness, 0.0, 0.0))
    # CAMUS's annotators let the myocardium end just below the mitral plane.
    epicardium = place(_bullet(width, shown.length, shown.squareness, shown.wall, 0.06 * shown.length))
    annulus = width * _profile(np.zeros(1), shown.squareness)[0]
    atrium = place(_atrium(annulus * shown.atrium[1], shown.atrium[0], shown.length))
    right = place(_right_ventricle(shown, width)) if view == "4CH" else None
    right_atrium = place(_right_atrium(shown, width)) if view == "4CH" else None
    valve = place(_valve(annulus, shown.length, systole))
    return Outlines(endocardium, epicardium, atrium, right, right_atrium, valve)


def _profile(s: NDArray[np.float64], squareness: float) -> NDArray[np.float64]:
    """Relative width at s = 0 (mitral plane) to 1 (apex); widest at a third, a little narrower at the annulus."""
    bullet = (1 - np.clip(s, 0, 1) ** squareness) ** (1 / squareness)
    return bullet * (1 - 0.16 * np.clip(1 - s / 0.35, 0, 1) ** 2)


def _bullet(width: float, length: float, squareness: float, wall: float, below: float) -> Outline:
    """Bullet with its apex at 0 and its mitral plane at `length` along the second axis, grown by `wall`."""
    s = np.concatenate([np.linspace(0, 0.9, 40), 1 - 0.1 * np.linspace(1, 0, 20) ** 2])
    half = _profile(s, squareness) * width / 2
    axis = length * (1 - s)
    if wall:
        apical = wall * (0.75 + 0.25 * (1 - s))
        axis = np.interp(s, [0, 1], [length, -0.75 * wall])
        half = half + apical * np.sqrt(np.clip(1 - s**6, 0, 1))
    right = np.stack([half, axis], axis=1)
    left = np.stack([-half[::-1], axis[::-1]], axis=1)
    base = [[half[0] * 0.98, length + below], [-half[0] * 0.98, length + below]] if below else []
    return np.concatenate([right, left, np.reshape(base[::-1], (-1, 2))])


def _atrium(width: float, length: float, offset: float) -> Outline:
    """Rounded chamber whose flat top is the mitral plane."""
    angle = np.linspace(0, np.pi, 60)
    half = width / 2 * (1 + 0.18 * np.sin(angle)) * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.75
    return np.stack([half, offset + length * np.sin(angle) ** 0.9], axis=1)


def _right_ventricle(heart: Heart, width: float) -> Outline:
    """A crescent on the septum's far side, shorter than the LV."""
    s = np.linspace(0, 1, 40)
    septum = -(_profile(s, heart.squareness) * width / 2 + heart.wall)
    bulge = heart.rv_width * np.sin(np.pi * np.clip(1 - s, 0, 1) ** 0.7 * 0.62)
    axis = heart.length * (1 - 0.8 * s)
    inner, outer = np.stack([septum - 1, axis], axis=1), np.stack([septum - 1 - bulge, axis], axis=1)
    return np.concatenate([inner, outer[::-1]])


def _right_atrium(heart: Heart, width: float) -> Outline:
    chamber = _atrium(heart.rv_width * 1.25, heart.atrium[0] * 0.8, heart.length + 3)
    return chamber + np.array([-(width / 2 * 0.84 + heart.wall + heart.rv_width * 0.65), 0.0])


def _valve(annulus: float, length: float, closed: bool) -> Outline:
    """Two leaflets from the annulus: meeting a little below the plane when closed, opening into the LV else."""
    half = annulus / 2
    tip, drop = half * 0.12, (-2.5 if closed else -6.0)
    left = np.stack([np.linspace(-half, -0.0 if closed else -tip, 12), length + np.linspace(0, drop, 12)], axis=1)
    return np.concatenate([left, (left * np.array([-1.0, 1.0]))[::-1]])


def _placer(pose: Pose, length: float) -> Callable[[Outline], Outline]:
    """Maps heart coordinates to the probe's: bend along the axis, rotate by the tilt, move to the apex."""
    c, s = np.cos(pose.tilt), np.sin(pose.tilt)
    rotation = np.array([[c, s], [-s, c]])

    def place(points: Outline) -> Outline:
        along = np.clip(points[:, 1] / length, 0, 1.6)
        bent = points + np.stack([pose.bend * 4 * along * (1 - along), np.zeros_like(along)], axis=1)
        result: Outline = bent @ rotation.T + np.asarray(pose.apex)
        return result

    return place
