"""From a heart to one image and its mask: how strongly each tissue echoes, and what the probe adds and loses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line, polygon

from echo_synth.phantom.anatomy import Heart, Outline, Outlines, Pose, outline
from echo_synth.phantom.bmode import Probe, compress, polar_grid, scan_convert, speckle

SPACING_MM = 0.308
BLOOD, MYOCARDIUM, ATRIUM, TISSUE, RIGHT_HEART, BRIGHT = 1, 2, 3, 0, 5, 6
# Mean echo strength, dB relative to the brightest tissue.
ECHO_DB = {TISSUE: -27.0, BLOOD: -50.0, MYOCARDIUM: -21.0, ATRIUM: -50.0, RIGHT_HEART: -46.0, BRIGHT: -8.0}


@dataclass(frozen=True)
class Quality:
    """What makes an image Good, Medium or Poor: noise (dB), shadows, clutter (dB), contrast loss (dB)."""

    name: str
    noise_db: float
    shadows: int
    clutter_db: float
    blur: float


QUALITIES = (
    Quality("Good", -66.0, 1, -42.0, 1.0),
    Quality("Medium", -61.0, 2, -36.0, 1.25),
    Quality("Poor", -55.0, 4, -31.0, 1.6),
)


def grid_shape(pose: Pose) -> tuple[int, int]:
    """Rows and columns that hold the sector at SPACING_MM."""
    rows = int(np.ceil(pose.sector_depth / SPACING_MM)) + 1
    columns = 2 * int(np.ceil(pose.sector_depth * np.sin(pose.half_angle) / SPACING_MM)) + 3
    return rows, columns


def render(
    heart: Heart, pose: Pose, view: str, systole: bool, quality: Quality, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One case.

    Returns:
        image (rows, columns) float32, integers 0..255, 0 outside the sector;
        mask (rows, columns) uint8, CAMUS labels 0..3, clipped to the sector.
    """
    shape = grid_shape(pose)
    outlines = outline(heart, pose, view, systole)
    regions = _paint(outlines, shape)
    probe = Probe(
        beam_mm=0.9 * quality.blur,
        focus_mm=rng.uniform(60, 100),
        noise_db=quality.noise_db,
        gain_db=rng.uniform(-3, 5),
        dynamic_range_db=rng.uniform(50, 60),
    )
    ranges, angles = polar_grid(pose.sector_depth, pose.half_angle)
    seen = _in_beams(_draw_valve(regions, outlines.valve), ranges, angles)
    amplitude = echo_strength(seen, ranges, angles, quality, rng)
    grey = compress(speckle(amplitude, ranges, angles, probe, rng), ranges, probe, rng)
    # Scanners average frames and smooth before display; speckle on screen is milder than Rayleigh.
    grey = ndimage.gaussian_filter(grey, (1.2, 0.9))
    image, inside = scan_convert(grey, pose.sector_depth, pose.half_angle, SPACING_MM, shape)
    mask = np.where(inside & (regions <= ATRIUM), regions, 0).astype(np.uint8)
    return image, mask


def _pixels(points: Outline, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return points[:, 1] / SPACING_MM - 0.5, points[:, 0] / SPACING_MM + shape[1] / 2 - 0.5


def _paint(outlines: Outlines, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Region of each pixel; later strokes win, so the LV cavity is painted last."""
    canvas = np.zeros(shape, np.uint8)
    strokes: list[tuple[Outline | None, int]] = [
        (outlines.right_ventricle, RIGHT_HEART),
        (outlines.right_atrium, RIGHT_HEART),
        (outlines.epicardium, MYOCARDIUM),
        (outlines.atrium, ATRIUM),
        (outlines.endocardium, BLOOD),
    ]
    for points, value in strokes:
        if points is not None:
            rows, columns = _pixels(points, shape)
            canvas[polygon(rows, columns, shape)] = value
    return canvas


def _draw_valve(regions: NDArray[np.uint8], valve: Outline) -> NDArray[np.uint8]:
    """The mitral leaflets as a bright stroke of about 1.5 mm; the mask does not show them."""
    rows, columns = _pixels(valve, regions.shape)
    stroke = np.zeros(regions.shape, bool)
    for a, b in zip(range(len(rows) - 1), range(1, len(rows)), strict=True):
        r, c = line(int(rows[a]), int(columns[a]), int(rows[b]), int(columns[b]))
        keep = (r >= 0) & (r < regions.shape[0]) & (c >= 0) & (c < regions.shape[1])
        stroke[r[keep], c[keep]] = True
    stroke = ndimage.binary_dilation(stroke, iterations=2) & np.isin(regions, (BLOOD, ATRIUM))
    return np.where(stroke, BRIGHT, regions).astype(np.uint8)


def _in_beams(
    regions: NDArray[np.uint8], ranges: NDArray[np.float64], angles: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Region at each range and beam angle."""
    rows = ranges[:, None] * np.cos(angles)[None] / SPACING_MM - 0.5
    columns = ranges[:, None] * np.sin(angles)[None] / SPACING_MM + regions.shape[1] / 2 - 0.5
    region: NDArray[np.uint8] = ndimage.map_coordinates(regions, [rows, columns], order=0, mode="nearest")
    return region


def echo_strength(
    region: NDArray[np.uint8],
    ranges: NDArray[np.float64],
    angles: NDArray[np.float64],
    quality: Quality,
    rng: np.random.Generator,
    echo_db: Mapping[int, float] = ECHO_DB,
) -> NDArray[np.float32]:
    """Scatterer strength, linear, of regions on the polar grid (samples, beams); angles are about the sector's middle.

    Args:
        echo_db: mean strength of each region.
    """
    decibel = np.choose(np.minimum(region, 6), [echo_db.get(i, 0.0) for i in range(7)]).astype(np.float32)
    decibel += _interfaces(region, ranges) + _texture(region, rng)
    decibel = np.where((region == TISSUE), decibel - _lung(ranges, angles, rng), decibel)
    linear = 10 ** (decibel / 20)
    linear += 10 ** (quality.clutter_db / 20) * np.exp(-ranges / 35.0)[:, None]  # near-field reverberation
    linear *= 10 ** (-_shadows(ranges, angles, quality.shadows, rng) / 20)
    # Slice thickness and side lobes wash wall echoes into the cavities.
    return np.asarray(ndimage.gaussian_filter(linear, (1.5, 1.2)), np.float32)


def _interfaces(region: NDArray[np.uint8], ranges: NDArray[np.float64]) -> NDArray[np.float32]:
    """Specular gain, dB: interfaces across the beam reflect back to the probe, those along it do not."""
    solid = np.isin(region, (TISSUE, MYOCARDIUM)).astype(np.float32)
    gradient = np.abs(
        ndimage.gaussian_filter1d(ndimage.sobel(ndimage.gaussian_filter(solid, 1.2), axis=0), 1.0, axis=0)
    )
    epicardial = ndimage.gaussian_filter((region == MYOCARDIUM).astype(np.float32), 1.5)
    rim = np.where(region == TISSUE, epicardial, 0) * 18
    return np.asarray(7 * np.clip(gradient, 0, 1) + rim, np.float32)


def _texture(region: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Slow variations of echogenicity, dB: strong in connective tissue, mild in muscle, none in blood."""
    noise = rng.standard_normal(region.shape, dtype=np.float32)
    coarse = ndimage.gaussian_filter(noise, (16, 9))
    fine = ndimage.gaussian_filter(noise, (4, 5))
    mixed = coarse / coarse.std() * 0.75 + fine / fine.std() * 0.65
    strength = np.choose(np.minimum(region, 6), [7.0, 1.5, 2.5, 1.5, 7.0, 1.5, 2.0])
    return np.asarray(mixed * strength, np.float32)


def _lung(ranges: NDArray[np.float64], angles: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Loss, dB, of what lies beside the heart: lung scatters sound away, more so towards the edges."""
    edge = np.abs(angles) / angles.max()
    depth = ranges / ranges.max()
    loss: NDArray[np.float64] = rng.uniform(4, 14) * np.outer(depth**1.5, edge**2) + rng.uniform(0, 5) * depth[:, None]
    return loss


def _shadows(
    ranges: NDArray[np.float64], angles: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Loss, dB, of ribs and poor contact: beams that lose contact from some depth on, soft-edged."""
    loss = np.zeros((len(ranges), len(angles)))
    weak_edges = 6 * np.clip(np.abs(angles) / angles.max() - 0.75, 0, 1) / 0.25 * rng.uniform(0, 1)
    loss += weak_edges[None]
    for _ in range(rng.integers(0, count + 1) if count else 0):
        centre, width = rng.uniform(angles[0], angles[-1]), np.deg2rad(rng.uniform(2, 6))
        onset = np.clip((ranges - rng.uniform(10, 60)) / 15, 0, 1)
        loss += rng.uniform(6, 16) * onset[:, None] * np.exp(-0.5 * ((angles - centre) / width) ** 2)[None]
    return loss
