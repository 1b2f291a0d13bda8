"""A tissue map as a scanner would show it: the phantom's physics, in the map's own fan.

What a map does not say is guessed: the right heart of a four-chamber view, the mitral leaflets. Beside real images
these faults are seen: the septum is no brighter than the other walls, the cavity has neither trabeculae nor papillary
muscles, what lies near the probe is too bright, leaflets are too regular, and images differ less in brightness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon

from echo_synth.metrics.components import largest_component
from echo_synth.metrics.valve import valve_ends
from echo_synth.phantom.bmode import Probe, compress, polar_grid, speckle
from echo_synth.phantom.scene import (
    ATRIUM,
    BLOOD,
    BRIGHT,
    MYOCARDIUM,
    QUALITIES,
    RIGHT_HEART,
    TISSUE,
    echo_strength,
)

Spacing = tuple[float, float]  # mm a pixel, down and across
_SHARES = (0.45, 0.4, 0.15)  # of the qualities, as in the phantom
_LEAST_SLOPE = 0.15  # of a fan's edge, mm across by mm down; steeper ones are taken as this
_FINER = 2  # samples a pixel, each way, that are averaged into it
_LEAFLET_MM = 1.5
# Chosen beside 32 training images of CAMUS. Mean grey of cavity, wall, atrium, other: real 72, 112, 85, 98, here 66, 109,
# 75, 96; wall above cavity 41, 43; grain 0.060, 0.066, half its reach down and across 0.90 and 1.51 mm, 0.90 and 1.38 mm.
_ECHO_DB = {TISSUE: -25.5, BLOOD: -42.5, MYOCARDIUM: -29.0, ATRIUM: -37.0, RIGHT_HEART: -38.0, BRIGHT: -17.0}
_SPREAD_DB = 2.5  # standard deviation of a region's strength, image by image
_PATCHY_DB = 4.0  # and from place to place: poor contact, walls along the beam
_PATCH = (45.0, 14.0)  # extent of such places, samples and beams
_AXIAL_MM, _BEAM_MM = 0.2, 0.5
_DISPLAY = (0.7, 0.55)  # the scanner's smoothing, samples and beams


@dataclass(frozen=True)
class Fan:
    """A sector's geometry, mm and radians.

    Attributes:
        apex: (row, column) in mm from the image's corner; it may lie above the image.
        middle: direction of the central beam, 0 is down and positive to the right.
        half_angle: from there to either edge.
        near, depth: ranges of the nearest and farthest pixel.
    """

    apex: tuple[float, float]
    middle: float
    half_angle: float
    near: float
    depth: float


def fit_fan(sector: NDArray[np.bool_], spacing: Spacing) -> Fan:
    """The fan of a sector (H, W), not empty: its straight edges are extended to where they meet."""
    rows = np.nonzero(sector.any(1))[0]
    first, last = sector.argmax(1)[rows], sector.shape[1] - 1 - sector[:, ::-1].argmax(1)[rows]
    straight = slice(0, max(2, int((last - first).argmax() * 0.9)))
    depths, lefts, rights = (
        rows[straight] * spacing[0],
        (first[straight] - 0.5) * spacing[1],
        (last[straight] + 0.5) * spacing[1],
    )
    (left_slope, left), (right_slope, right) = (_line(depths, edge) for edge in (lefts, rights))
    left_slope, right_slope = min(left_slope, -_LEAST_SLOPE), max(right_slope, _LEAST_SLOPE)
    row = (left - right) / (right_slope - left_slope)
    apex = (float(row), float(left + left_slope * row))
    inside = np.argwhere(sector) * np.asarray(spacing) - apex
    radius = np.hypot(inside[:, 0], inside[:, 1])
    low, high = np.arctan(left_slope), np.arctan(right_slope)
    return Fan(apex, float(low + high) / 2, float(high - low) / 2, float(radius.min()), float(radius.max()))


def _line(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    """Slope and intercept by least squares; level through the mean where x does not vary."""
    if np.ptp(x) == 0:
        return 0.0, float(y.mean())
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def render_map(
    tissues: NDArray[np.uint8], spacing: Spacing, view: str, phase: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One image (H, W) uint8, 0 outside the sector and at least 1 inside, of tissue ids 0..4 (H, W)."""
    sector = tissues > 0
    if not sector.any():
        return np.zeros(tissues.shape, np.uint8)
    quality = QUALITIES[int(rng.choice(3, p=_SHARES))]
    fan = fit_fan(sector, spacing)
    regions = _regions(tissues, spacing, view, phase, rng)
    ranges, angles = polar_grid(fan.depth, fan.half_angle)
    probe = Probe(
        axial_mm=_AXIAL_MM,
        beam_mm=_BEAM_MM * quality.blur,
        focus_mm=rng.uniform(60, 100),
        noise_db=quality.noise_db,
        gain_db=rng.uniform(-3, 5),
        dynamic_range_db=rng.uniform(50, 60),
    )
    echo_db = {region: level + rng.normal(0, _SPREAD_DB) for region, level in _ECHO_DB.items()}
    seen = _in_beams(regions, spacing, fan, ranges, angles)
    strength = echo_strength(seen, ranges, angles, quality, rng, echo_db)
    strength *= _patches(strength.shape, rng)
    grey = compress(speckle(strength, ranges, angles, probe, rng), ranges, probe, rng)
    grey = ndimage.gaussian_filter(grey, _DISPLAY)
    return _on_screen(grey, sector, spacing, fan)


def _in_beams(
    regions: NDArray[np.uint8],
    spacing: Spacing,
    fan: Fan,
    ranges: NDArray[np.float64],
    angles: NDArray[np.float64],
) -> NDArray[np.uint8]:
    rows = (fan.apex[0] + ranges[:, None] * np.cos(angles + fan.middle)[None]) / spacing[0]
    columns = (fan.apex[1] + ranges[:, None] * np.sin(angles + fan.middle)[None]) / spacing[1]
    region: NDArray[np.uint8] = ndimage.map_coordinates(regions, [rows, columns], order=0, mode="nearest")
    return region


def _patches(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """A slowly varying factor, 1 on average in dB."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), _PATCH)
    factor: NDArray[np.float32] = 10 ** (_PATCHY_DB / 20 * field / field.std())
    return factor


def _on_screen(polar: NDArray[np.float32], sector: NDArray[np.bool_], spacing: Spacing, fan: Fan) -> NDArray[np.uint8]:
    """Scan conversion, on a finer grid that is averaged, as the conversion of real images averages theirs."""
    height, width = sector.shape
    steps = (np.arange(_FINER) + 0.5) / _FINER - 0.5
    down = ((np.arange(height)[:, None] + steps).ravel() * spacing[0] - fan.apex[0])[:, None]
    across = ((np.arange(width)[:, None] + steps).ravel() * spacing[1] - fan.apex[1])[None]
    samples, beams = polar.shape
    rows = (np.hypot(down, across) - 0.5) / (fan.depth - 0.5) * (samples - 1)
    columns = (np.arctan2(across, down) - fan.middle + fan.half_angle) / (2 * fan.half_angle) * (beams - 1)
    fine = ndimage.map_coordinates(polar, [rows, columns], order=1, mode="nearest")
    grey = fine.reshape(height, _FINER, width, _FINER).mean((1, 3))
    return np.where(sector, np.clip(np.rint(grey), 1, 255), 0).astype(np.uint8)


def _regions(
    tissues: NDArray[np.uint8], spacing: Spacing, view: str, phase: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The map's tissues as the physics knows them, with what it leaves out."""
    regions = np.choose(tissues, [TISSUE, BLOOD, MYOCARDIUM, ATRIUM, TISSUE]).astype(np.uint8)
    cavity = largest_component(tissues == BLOOD)
    if not cavity.any():
        return regions
    ends = valve_ends(
        ndimage.binary_fill_holes(cavity), tissues == MYOCARDIUM, largest_component(tissues == ATRIUM), spacing
    )
    middle = ends.mean(0)
    points = np.argwhere(cavity) * np.asarray(spacing)
    apex = points[np.linalg.norm(points - middle, axis=1).argmax()]
    if np.linalg.norm(apex - middle) == 0:
        return regions
    if view == "4CH":
        _add_right_heart(regions, middle, apex, spacing, rng)
    _add_leaflets(regions, ends, (apex - middle) / np.linalg.norm(apex - middle), phase, spacing)
    return regions


def _add_right_heart(
    regions: NDArray[np.uint8],
    middle: NDArray[np.float64],
    apex: NDArray[np.float64],
    spacing: Spacing,
    rng: np.random.Generator,
) -> None:
    """A right ventricle and atrium on the image's left, behind the septum, painted where the map says other tissue."""
    length = float(np.linalg.norm(apex - middle))
    upward = (apex - middle) / length
    leftward = np.array([upward[1], -upward[0]]) * (-1 if upward[0] < 0 else 1)
    width = rng.uniform(0.28, 0.42) * length
    outline = np.linspace(0, np.pi, 40)
    heart = np.isin(regions, (BLOOD, MYOCARDIUM, ATRIUM))
    for bottom, top, side in ((0.02, 0.85, 1.0), (-0.03, -rng.uniform(0.45, 0.65), 1.15)):
        along = bottom + (top - bottom) * (1 - np.cos(outline)) / 2
        bulge = side * width * np.sin(outline) ** 0.6 * (1 - 0.25 * np.clip(along, 0, 1))
        inner = np.array([_septum(heart, middle + a * length * upward, leftward, spacing) for a in along])
        outer = inner + bulge[:, None] * leftward
        points = np.concatenate([inner, outer[::-1]]) / np.asarray(spacing)
        canvas = np.zeros(regions.shape, bool)
        canvas[polygon(points[:, 0], points[:, 1], regions.shape)] = True
        regions[canvas & (regions == TISSUE) & ~ndimage.binary_dilation(heart, iterations=2)] = RIGHT_HEART


def _septum(
    heart: NDArray[np.bool_], start: NDArray[np.float64], leftward: NDArray[np.float64], spacing: Spacing
) -> NDArray[np.float64]:
    """Where the left heart ends on the way from its axis to the left, mm."""
    steps = np.arange(0, 60, 0.5)
    way = start + steps[:, None] * leftward
    pixels = np.clip(np.rint(way / np.asarray(spacing)).astype(int), 0, np.array(heart.shape) - 1)
    inside = np.nonzero(heart[pixels[:, 0], pixels[:, 1]])[0]
    end: NDArray[np.float64] = way[inside[-1]] if len(inside) else start
    return end


def _add_leaflets(
    regions: NDArray[np.uint8],
    ends: NDArray[np.float64],
    upward: NDArray[np.float64],
    phase: str,
    spacing: Spacing,
) -> None:
    """The mitral leaflets from either end of the valve, nearly closed at end-systole and a little open at end-diastole."""
    rows, columns = np.indices(regions.shape)
    place = np.stack([rows * spacing[0], columns * spacing[1]], -1).astype(np.float64)
    middle = ends.mean(0)
    lift, gap = (2.5, 0.0) if phase == "ES" else (6.0, 0.12)
    blood = np.isin(regions, (BLOOD, ATRIUM))
    for end in ends:
        tip = middle + gap * (end - middle) + lift * upward
        near = _distance_to_segment(place, end, tip) <= _LEAFLET_MM / 2
        regions[near & blood] = BRIGHT


def _distance_to_segment(
    place: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    way = end - start
    share = np.clip(((place - start) @ way) / max(float(way @ way), 1e-9), 0, 1)
    distance: NDArray[np.float64] = np.linalg.norm(place - start - share[..., None] * way, axis=-1)
    return distance
