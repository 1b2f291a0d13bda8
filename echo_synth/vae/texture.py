"""Speckle that a decoded mean cannot hold: a random residual, added to the image in the fan's own coordinates.

A decoder of E[z] gives the mean of all images that fit the latent, so grain finer than the latent's
grid is averaged away. What is missing, image minus reconstruction, is described on training images by
two things: its standard deviation at each grey level and local contrast, and its spectrum along depth
and across the beams, where ultrasound's grain is stationary. A draw is Gaussian noise of that spectrum,
scaled by level and contrast. It is a texture, no anatomy: labels stay true.

Contrast matters: of one grey level, the residual beside edges is three times that in even blood. By level
alone cavities got 1.2 times their grain, and a segmenter read them 2 % smaller than without.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

LEVELS = 32  # bins of grey levels
_EDGES = np.geomspace(0.008, 0.064, 7)  # between bins of contrast, in grey levels / 255
CONTRASTS = len(_EDGES) + 1
_NEAR = 2.0  # pixels, sigma of the window in which contrast is measured
POLAR = (256, 192)  # samples along depth and across the beams
_STRAIGHT = (0.15, 0.85)  # part of the fan's side edges that is taken as straight
_DEEP = 160  # samples of depth, from the far end, on which the spectrum is measured
_FEW = 100  # pixels; of fewer no deviation is taken
_STREAM = 3  # of Philox's counter: apart from the initial noise and that of stochastic solvers


@dataclass(frozen=True)
class Texture:
    """What is added to decoded images.

    Attributes:
        deviation: (LEVELS, CONTRASTS) float32, standard deviation of the residual by grey level and by `local_contrast`
            of the decoded image, in grey levels / 255.
        spectrum: (256, 97) float32, power of the noise to draw, half of POLAR's 2-D transform; its inverse at lag 0 is 1.
            Interpolated linearly, this noise has the spectrum of the unit residual.
    """

    deviation: NDArray[np.float32]
    spectrum: NDArray[np.float32]

    def draw(self, image: NDArray[np.uint8], seed: int, index: int) -> NDArray[np.uint8]:
        """`image` (H, W) uint8, 0 outside its sector, with the grain of image `index` of a dataset with that seed.

        Inside the sector values are 1 to 255, outside 0.
        """
        sector = image > 0
        fan = fan_of(sector)
        if fan is None:
            return image
        rng = np.random.Generator(np.random.Philox(key=[seed, index], counter=_STREAM << 192))
        white = fft.rfft2(rng.standard_normal(POLAR, dtype=np.float32))
        polar = fft.irfft2(white * np.sqrt(self.spectrum), POLAR)
        field = ndimage.map_coordinates(polar, fan.at(*np.nonzero(sector)), order=1, mode="wrap")
        scale = _scale(self.deviation, image[sector], local_contrast(image)[sector])
        added = image[sector] / 255 + field / max(float(field.std()), 1e-6) * scale
        result = np.zeros_like(image)
        result[sector] = np.clip(np.round(added * 255), 1, 255)
        return result


@dataclass(frozen=True)
class Fan:
    """Where beams come from and how far they reach, in pixels of the image.

    Attributes:
        row, column: of the apex, where the lines through both side edges meet.
        low, high: angles of the outer beams, radians from straight down.
        near, far: distances from the apex.
    """

    row: float
    column: float
    low: float
    high: float
    near: float
    far: float

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.floating]:
        """Depth and beam (2, P) of pixels, in samples of POLAR."""
        depth = np.hypot(rows - self.row, columns - self.column)
        beam = np.arctan2(columns - self.column, rows - self.row)
        at_depth = (depth - self.near) / (self.far - self.near) * (POLAR[0] - 1)
        at_beam = (beam - self.low) / (self.high - self.low) * (POLAR[1] - 1)
        return np.stack([at_depth, at_beam])

    def grid(self) -> NDArray[np.floating]:
        """Row and column (2, *POLAR) of every sample of POLAR."""
        depth = np.linspace(self.near, self.far, POLAR[0])[:, None]
        beam = np.linspace(self.low, self.high, POLAR[1])[None]
        return np.stack([self.row + depth * np.cos(beam), self.column + depth * np.sin(beam)])


def fan_of(sector: NDArray[np.bool_]) -> Fan | None:
    """The fan that `sector` (H, W) shows; None where it is none (a box, a sliver)."""
    edges = _side_edges(sector)
    if edges is None:
        return None
    (left_slope, left), (right_slope, right) = edges
    if right_slope - left_slope < 0.1:
        return None
    row = (left - right) / (right_slope - left_slope)
    column = left + left_slope * row
    rows, columns = np.nonzero(sector)
    depth = np.hypot(rows - row, columns - column)
    low, high = float(np.arctan(left_slope)), float(np.arctan(right_slope))
    return Fan(row, column, low, high, float(depth.min()), float(depth.max()))


def _side_edges(sector: NDArray[np.bool_]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Slope and intercept, columns over rows, of the left and of the right edge."""
    rows = np.flatnonzero(sector.any(axis=1))
    if len(rows) < 16:
        return None
    left = np.asarray([np.argmax(sector[r]) for r in rows])
    right = np.asarray([sector.shape[1] - 1 - np.argmax(sector[r, ::-1]) for r in rows])
    widest = int(np.argmax(right - left))
    part = slice(int(widest * _STRAIGHT[0]), int(widest * _STRAIGHT[1]))
    if part.stop - part.start < 8:
        return None
    slopes = [np.polyfit(rows[part], side[part], 1) for side in (left, right)]
    (a, b), (c, d) = slopes
    return (float(a), float(b)), (float(c), float(d))


def fit_texture(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Texture:
    """The texture of `pairs` of images and their reconstructions, (H, W) uint8 each, 0 outside the sector.

    Raises ValueError when no pair has the shape of a fan.
    """
    squares, counts = np.zeros(LEVELS * CONTRASTS), np.zeros(LEVELS * CONTRASTS)
    kept = []
    for image, drawn in pairs:
        sector = (image > 0) & (drawn > 0)
        residual = (image[sector].astype(float) - drawn[sector]) / 255
        level = np.minimum((drawn[sector] / 255 * LEVELS).astype(int), LEVELS - 1)
        bins = level * CONTRASTS + np.digitize(local_contrast(drawn)[sector], _EDGES)
        squares += np.bincount(bins, residual**2, len(squares))
        counts += np.bincount(bins, minlength=len(counts))
        kept.append((image, drawn))
    deviation = _smooth(squares.reshape(LEVELS, CONTRASTS), counts.reshape(LEVELS, CONTRASTS))
    power = [p for p in (_polar_power(image, drawn, deviation) for image, drawn in kept) if p is not None]
    if not power:
        raise ValueError("no image whose sector is a fan")
    spectrum = np.mean(power, axis=0) / _kept_between_samples()
    return Texture(deviation, (spectrum / fft.irfft2(spectrum, POLAR)[0, 0]).astype(np.float32))


def _kept_between_samples() -> NDArray[np.float64]:
    """(256, 97), the share of its power that each frequency of POLAR keeps when a draw is interpolated linearly.

    At a place t between two samples, a wave of ω radians a sample keeps (1 - t)² + t² + 2t(1 - t) cos ω of its power; with t
    evenly spread that is 2/3 + cos ω / 3. Without it fine grain is lost, and what is left reaches too far.
    """
    depth, beam = (2 / 3 + np.cos(2 * np.pi * f) / 3 for f in (fft.fftfreq(POLAR[0]), fft.rfftfreq(POLAR[1])))
    return np.asarray(depth[:, None] * beam)


def _smooth(squares: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Deviation by level and contrast; levels that are rare borrow from their neighbours, rare pairs from the nearest."""
    weight = ndimage.gaussian_filter1d(counts, 1.0, axis=0, mode="constant")
    mean = ndimage.gaussian_filter1d(squares, 1.0, axis=0, mode="constant") / np.maximum(weight, 1)
    unknown = weight < _FEW
    if unknown.all():
        return np.zeros(counts.shape, np.float32)
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return np.sqrt(mean[tuple(nearest)]).astype(np.float32)


def _polar_power(
    image: NDArray[np.uint8], drawn: NDArray[np.uint8], deviation: NDArray[np.float32]
) -> NDArray[np.float64] | None:
    """Power of the unit residual on POLAR's grid, half of its transform, a sample; None where the sector is no fan."""
    sector = (image > 0) & (drawn > 0)
    fan = fan_of(drawn > 0)
    if fan is None:
        return None
    scale = np.maximum(_scale(deviation, drawn, local_contrast(drawn)), 1e-3)
    unit = np.where(sector, (image.astype(float) - drawn) / 255 / scale, 0)
    # Near the apex a pixel covers many beams: its grain would count as wide there, so only the deeper part counts.
    window = np.zeros(POLAR[0])
    window[POLAR[0] - _DEEP :] = np.hanning(_DEEP)
    weight = window[:, None] * ndimage.map_coordinates(sector.astype(float), fan.grid(), order=1)
    polar = ndimage.map_coordinates(unit, fan.grid(), order=3)
    polar = weight * (polar - (weight * polar).sum() / max(1e-9, weight.sum()))
    return np.asarray(np.abs(np.fft.rfft2(polar)) ** 2 / max(1e-9, float((weight**2).sum())))


def local_contrast(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation of grey levels / 255 about each pixel of the sector, of `image` (H, W) uint8; 0 outside."""
    sector, grey = (image > 0).astype(np.float32), image.astype(np.float32) / 255
    down, across = _window(image.shape[0]), _window(image.shape[1])
    weight, mean, square = down @ np.stack([sector, grey, grey**2]) @ across.T
    weight = np.maximum(weight, 1e-6)
    variance = square / weight - (mean / weight) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, 0)) * sector)


@cache
def _window(side: int) -> NDArray[np.float32]:
    """(side, side), whose product with a column of pixels is its Gaussian average: two small products are the fastest filter."""
    return np.asarray(ndimage.gaussian_filter1d(np.eye(side), _NEAR, axis=0), np.float32)


def _scale(
    deviation: NDArray[np.float32], image: NDArray[np.uint8], contrast: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Deviation at pixels of these grey levels and contrasts, any shape, interpolated between the bins' centres."""
    below, part = _between(np.arange(256) / 255 * LEVELS - 0.5, LEVELS)
    of_level = (
        deviation[below] * (1 - part)[:, None] + deviation[below + 1] * part[:, None]
    ).ravel()  # (256 · CONTRASTS,)
    step = np.log(_EDGES[1] / _EDGES[0])
    below, part = _between(np.log(np.maximum(contrast, 1e-4) / _EDGES[0]) / step + 0.5, CONTRASTS)
    first = image.astype(np.intp) * CONTRASTS + below
    return np.asarray(of_level[first] * (1 - part) + of_level[first + 1] * part)


def _between(position: NDArray[np.floating], bins: int) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """The bin below each position among `bins`, and the share of the one above; beyond the ends the end counts."""
    position = np.clip(position, 0, bins - 1)
    below = np.minimum(position.astype(np.intp), bins - 2)
    return below, position - below
