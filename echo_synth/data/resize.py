"""Changing the grid of images and masks without losing a millimetre."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize_image(pixels: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float32]:
    """`pixels` (H, W), any real dtype, on a grid of `size` (rows, columns), float32, same range.

    Each axis on its own: area averaging where it shrinks, linear where it grows, so that
    speckle is neither aliased nor sharpened.
    """
    result = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32), mode="F")
    for axis in (0, 1):
        old = result.height if axis == 0 else result.width
        if size[axis] == old:
            continue
        shape = (result.width, size[0]) if axis == 0 else (size[1], result.height)
        kind = Image.Resampling.BOX if size[axis] < old else Image.Resampling.BILINEAR
        result = result.resize(shape, kind)
    return np.asarray(result, dtype=np.float32)


def resize_grey(pixels: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`resize_image` in whole grey levels, uint8."""
    return np.clip(np.rint(resize_image(pixels, size)), 0, 255).astype(np.uint8)


def resize_labels(labels: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`labels` (H, W) on a grid of `size` (rows, columns) by nearest neighbour at pixel centres, uint8."""
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return np.ascontiguousarray(labels[np.ix_(rows, columns)], dtype=np.uint8)


def resize_mask(labels: NDArray[np.generic], size: tuple[int, int], tolerance: float = 0.01) -> NDArray[np.uint8]:
    """`resize_labels`, mended where a structure's share of the image changed by more than `tolerance`.

    A structure of a hundred pixels can gain or lose a tenth of its area by the luck of the
    grid. Its outline then moves, where linear interpolation is least certain, until the area is
    right to half a pixel.
    """
    result = resize_labels(labels, size)
    factor = result.size / labels.size
    for value in [int(v) for v in np.unique(labels) if v != 0]:
        wanted = round(int((labels == value).sum()) * factor)
        change = wanted - int((result == value).sum())
        if abs(change) > tolerance * wanted:
            _move_outline(result, labels, int(value), change)
    return result


def _move_outline(result: NDArray[np.uint8], labels: NDArray[np.generic], value: int, change: int) -> None:
    """Give `value` the `change` pixels that belong to it most, or take away those that belong least; in place."""
    membership = resize_image(labels == value, result.shape).ravel()
    flat = result.reshape(-1)
    if change > 0:
        outside = np.flatnonzero(flat != value)
        flat[outside[np.argsort(-membership[outside], kind="stable")[:change]]] = value
        return
    inside = np.flatnonzero(flat == value)
    leaving = inside[np.argsort(membership[inside], kind="stable")[:-change]]
    others = [v for v in np.unique(labels) if v != value]
    shares = np.stack([resize_image(labels == v, result.shape).ravel()[leaving] for v in others])
    flat[leaving] = np.asarray(others, np.uint8)[shares.argmax(axis=0)]


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    centres = (np.arange(new) + 0.5) * old / new
    return np.minimum(centres.astype(np.intp), old - 1)


def rescale_spacing(spacing: tuple[float, float], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[float, float]:
    """Spacing (mm) that keeps the field of view when the grid goes from `old` to `new` (rows, columns)."""
    return spacing[0] * old[0] / new[0], spacing[1] * old[1] / new[1]
