"""B-mode image formation: scatterers, a depth-dependent point-spread function, speckle, compression.

Fully developed speckle: many sub-resolution scatterers add up to a circular complex Gaussian
field, whose envelope is Rayleigh distributed (Burckhardt 1978; Wagner et al. 1983). The field
is formed in the probe's polar coordinates, where the point-spread function is separable, and
scan-converted at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Field = NDArray[np.complex64]


@dataclass(frozen=True)
class Probe:
    """Phased array and machine settings.

    Attributes:
        axial_mm: standard deviation of the pulse.
        beam_mm: lateral standard deviation at the focus.
        focus_mm: transmit focus; the beam widens away from it.
        attenuation_db_mm: what the time-gain compensation fails to restore, per mm beyond the focus.
        noise_db: electronic noise relative to bright tissue, before gain.
        dynamic_range_db: of the log compression.
        gain_db: added before compression.
    """

    axial_mm: float = 0.45
    beam_mm: float = 0.9
    focus_mm: float = 80.0
    attenuation_db_mm: float = 0.04
    noise_db: float = -52.0
    dynamic_range_db: float = 58.0
    gain_db: float = 0.0


def polar_grid(
    depth_mm: float, half_angle: float, samples: int = 512, beams: int = 176
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranges (samples,), mm, and beam angles (beams,), rad, of the field."""
    return np.linspace(0.5, depth_mm, samples), np.linspace(-half_angle, half_angle, beams)


def speckle(
    amplitude: NDArray[np.floating],
    ranges: NDArray[np.float64],
    angles: NDArray[np.float64],
    probe: Probe,
    rng: np.random.Generator,
) -> Field:
    """Complex echo field of scatterers whose strength is `amplitude`.

    Args:
        amplitude: (samples, beams), linear, non-negative.
        ranges, angles: of `polar_grid`.

    Returns:
        (samples, beams) complex64, unit mean power where `amplitude` is 1 over a resolution cell.
    """
    shape = amplitude.shape
    scatterers = rng.standard_normal((2, *shape), dtype=np.float32)
    field = (scatterers[0] + 1j * scatterers[1]) * np.float32(0.5**0.5) * amplitude.astype(np.float32)
    axial = probe.axial_mm / (ranges[1] - ranges[0])
    field = ndimage.gaussian_filter1d(field, axial, axis=0, mode="nearest")
    width = lateral_width_mm(ranges, probe) / (ranges * (angles[1] - angles[0]))
    frequency = fft.fftfreq(shape[1])
    transfer = np.exp(-2 * (np.pi * frequency[None] * np.minimum(width, shape[1] / 4)[:, None]) ** 2)
    field = fft.ifft(fft.fft(field, axis=1) * transfer, axis=1)
    # Filtering white noise by Gaussians of s samples leaves 1 / (2 sqrt(pi) s) of its power.
    power = 1 / (2 * np.pi**0.5 * max(axial, 0.3)) * np.minimum(1, 1 / (2 * np.pi**0.5 * np.maximum(width, 0.3)))
    result: Field = (field / np.sqrt(power)[:, None]).astype(np.complex64)
    return result


def lateral_width_mm(ranges: NDArray[np.float64], probe: Probe) -> NDArray[np.float64]:
    """Standard deviation of the beam at each range, mm: a Gaussian beam about its focus."""
    rayleigh = 55.0
    width: NDArray[np.float64] = probe.beam_mm * np.sqrt(1 + ((ranges - probe.focus_mm) / rayleigh) ** 2)
    return width


def compress(field: Field, ranges: NDArray[np.float64], probe: Probe, rng: np.random.Generator) -> NDArray[np.float32]:
    """Grey levels 0..255 of an echo field: attenuation, electronic noise, gain, envelope, logarithm."""
    loss = probe.attenuation_db_mm * np.maximum(0.0, ranges - probe.focus_mm)
    noise = rng.standard_normal((2, *field.shape), dtype=np.float32)
    # The time-gain compensation lifts the noise with the echoes: it grows with depth.
    level = 10 ** ((probe.noise_db + 0.09 * ranges) / 20)
    measured = field * (10 ** (-loss / 20))[:, None] + (noise[0] + 1j * noise[1]) * level[:, None]
    decibel = 20 * np.log10(np.abs(measured) + 1e-9) + probe.gain_db
    grey: NDArray[np.float32] = np.clip(255 * (1 + decibel / probe.dynamic_range_db), 0, 255).astype(np.float32)
    return grey


def scan_convert(
    polar: NDArray[np.float32], depth_mm: float, half_angle: float, spacing_mm: float, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image (rows, columns) on an isotropic grid with the apex at top centre, and the sector mask.

    Inside the sector grey levels are at least 1, as on a scanner; outside they are 0.
    """
    radius, angle, inside = polar_of_pixels(depth_mm, half_angle, spacing_mm, shape)
    samples, beams = polar.shape
    rows = (radius - 0.5) / (depth_mm - 0.5) * (samples - 1)
    columns = (angle + half_angle) / (2 * half_angle) * (beams - 1)
    image = ndimage.map_coordinates(polar, [rows, columns], order=1, mode="nearest")
    return np.where(inside, np.maximum(np.rint(image), 1), 0).astype(np.float32), inside


def polar_of_pixels(
    depth_mm: float, half_angle: float, spacing_mm: float, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Range (mm), angle (rad) and in-sector flag of every pixel of an image of `shape`."""
    depth = (np.arange(shape[0]) + 0.5) * spacing_mm
    lateral = (np.arange(shape[1]) + 0.5 - shape[1] / 2) * spacing_mm
    radius = np.hypot(depth[:, None], lateral[None])
    angle = np.arctan2(lateral[None], depth[:, None])
    return radius, angle, (radius <= depth_mm) & (np.abs(angle) <= half_angle)
