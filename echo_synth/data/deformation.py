"""One random transformation of a condition map: drawn first, applied after, both pure.

Source: Echo from Noise (Stojanovski et al. 2023), section 3.1. The scale's law and what a draw must keep
(`allowed`) are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from echo_synth.data.tissues import anatomy, visible, whole_map
from echo_synth.specs import MapSpec

SIZE = 256  # px, both axes of a map
_MOST_HALVINGS = 8


@dataclass(frozen=True)
class Transformation:
    """One draw; `apply` makes the map again from nothing else.

    Attributes:
        rotation_deg, shear_deg: degrees, about the image centre.
        shift_vertical: fraction of the image height, positive moves anatomy down.
        scale: factor, both axes.
        elastic: displacement of the control points in pixels, (2, K, K): rows, then columns.
    """

    rotation_deg: float
    shift_vertical: float
    scale: float
    shear_deg: float
    elastic: NDArray[np.float32]

    def record(self) -> dict[str, Any]:
        """As flat columns for the index; the exact values that `from_record` reads back."""
        return asdict(self) | {"elastic": self.elastic.ravel().tolist()}

    @classmethod
    def from_record(cls, row: Mapping[str, Any]) -> Transformation:
        """Inverse of `record`."""
        elastic = np.asarray(row["elastic"], np.float32)
        points = round((elastic.size / 2) ** 0.5)
        affine = {name: float(row[name]) for name in ("rotation_deg", "shift_vertical", "scale", "shear_deg")}
        return cls(**affine, elastic=elastic.reshape(2, points, points))


def draw(
    rng: np.random.Generator, spec: MapSpec, allowed: Callable[[Transformation], bool] = lambda _: True
) -> Transformation:
    """One transformation within the ranges of `spec` that `allowed` lets pass.

    What it does not let pass is drawn again, with half the ranges after every ten; the transformation that
    changes nothing ends the search.
    """
    for halvings in range(_MOST_HALVINGS):
        for _ in range(10):
            transformation = _draw_once(rng, spec, 0.5**halvings)
            if allowed(transformation):
                return transformation
    k = spec.elastic_control_points
    return Transformation(0.0, 0.0, 1.0, 0.0, np.zeros((2, k, k), np.float32))


def _draw_once(rng: np.random.Generator, spec: MapSpec, reach: float) -> Transformation:
    """Uniform within the ranges, times `reach`; elastic draws that fold the plane are drawn again, at half the size after every ten."""
    k, locked = spec.elastic_control_points, spec.elastic_locked_borders
    rotation = reach * rng.uniform(-spec.rotation_deg, spec.rotation_deg)
    shift = reach * rng.uniform(-spec.shift_vertical, spec.shift_vertical)
    low, high = spec.scale
    logarithmic = spec.scale_law == "log-uniform"
    scale = np.exp(rng.uniform(np.log(low), np.log(high))) if logarithmic else rng.uniform(low, high)
    shear = reach * rng.uniform(-spec.shear_deg, spec.shear_deg)
    amplitude = reach * rng.uniform(0, spec.elastic_max_px)
    while True:
        for _ in range(10):
            elastic = rng.uniform(-amplitude, amplitude, (2, k, k)).astype(np.float32)
            for edge in range(locked):
                far = k - 1 - edge
                elastic[:, edge] = elastic[:, far] = 0
                elastic[:, :, edge] = elastic[:, :, far] = 0
            if min_jacobian(displacement(elastic)) >= spec.elastic_min_jacobian:
                return Transformation(rotation, shift, float(scale**reach), shear, elastic)
        amplitude /= 2


def displacement(elastic: NDArray[np.float32], size: int = SIZE) -> NDArray[np.float64]:
    """Dense displacement (2, size, size) float64, px, by cubic B-splines whose coefficients are the control points.

    A free-form deformation (Rueckert 1999): coefficients, not interpolated values, so the field
    never exceeds the largest control point and is C2.
    """
    k = elastic.shape[-1]
    basis = _bspline_matrix(k, size)
    field: NDArray[np.float64] = basis @ elastic.astype(np.float64) @ basis.T
    return field


def _bspline_matrix(points: int, size: int) -> NDArray[np.float64]:
    """(size, points) weights of the cubic B-spline at each pixel; control points span the image."""
    position = np.linspace(0, points - 1, size)[:, None] - np.arange(points)[None]
    a = np.abs(position)
    near = 2 / 3 - a**2 + a**3 / 2
    far = (2 - a) ** 3 / 6
    return np.where(a < 1, near, np.where(a < 2, far, 0.0))


def min_jacobian(field: NDArray[np.float64]) -> float:
    """Smallest determinant of the Jacobian of x + field(x); positive means no folding."""
    dr, dc = np.gradient(field[0]), np.gradient(field[1])
    return float(((1 + dr[0]) * (1 + dc[1]) - dr[1] * dc[0]).min())


def stretch(transformation: Transformation, where: NDArray[np.bool_]) -> float:
    """Largest factor, at least 1, by which any length grows or shrinks at the pixels `where` (256, 256) of the result.

    The singular values of the Jacobian, which is that of undoing: a factor and its inverse count alike.
    """
    if not where.any():
        return 1.0
    rows, columns = _source_coordinates(transformation)
    a, b = np.gradient(rows)
    c, d = np.gradient(columns)
    half_square = ((a**2 + b**2 + c**2 + d**2) / 2)[where]
    determinant = (a * d - b * c)[where]
    root = np.sqrt(np.maximum(half_square**2 - determinant**2, 0))
    largest, smallest = (half_square + root).max() ** 0.5, np.maximum(half_square - root, 0).min() ** 0.5
    return float(max(largest, 1 / max(smallest, 1e-9)))


def apply(map_: NDArray[np.uint8], transformation: Transformation) -> NDArray[np.uint8]:
    """Transformed map.

    Args:
        map_: (256, 256) uint8, ids 0..4, or 0..7 with the anatomy beyond the sector.

    Returns:
        same shape, ids 0..7. The sector stays where it is; what anatomy uncovers becomes other tissue (4).
        `tissues.visible` clips the anatomy that has left it.
    """
    return whole_map(move(map_, transformation), visible(map_) > 0)


def move(map_: NDArray[np.uint8], transformation: Transformation) -> NDArray[np.uint8]:
    """The anatomy of a map (see `apply`), labels 0..3, transformed and not clipped; (256, 256) uint8."""
    moved: NDArray[np.uint8] = ndimage.map_coordinates(
        anatomy(map_), _source_coordinates(transformation), order=0, mode="constant", cval=0
    )
    return moved


def _source_coordinates(t: Transformation) -> NDArray[np.float64]:
    """For each output pixel the input position: first undo the elastic step, then the affine one."""
    grid = np.indices((SIZE, SIZE)).astype(np.float64)
    elastic = grid + displacement(t.elastic)
    centre = (SIZE - 1) / 2
    angle, shear = np.deg2rad(t.rotation_deg), np.tan(np.deg2rad(t.shear_deg))
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = t.scale * rotate @ np.array([[1.0, 0.0], [shear, 1.0]])
    offset = np.array([t.shift_vertical * SIZE, 0.0]).reshape(2, 1, 1)
    return np.einsum("ij,jrc->irc", np.linalg.inv(forward), elastic - centre - offset) + centre
