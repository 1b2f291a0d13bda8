"""Image and mask of one case of CAMUS, read together and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.camus import CamusCase
from echo_synth.data.nifti import Image2D, read_image
from echo_synth.data.tissues import sector_mask
from echo_synth.errors import DataError

_FIELD_OF_VIEW_MM = (10.0, 500.0)  # of one axis; adults are scanned to 120 to 240 mm
_ASKEW = 0.1  # of a unit vector's component: five degrees
_DIMMEST = 16  # the brightest grey level of an echo image is far above


def read_case(case: CamusCase) -> tuple[Image2D, Image2D]:
    """Image and mask of a case, checked against each other.

    Returns:
        image with finite pixels in [0, 255], mask uint8 with labels 0..3, both upright; same shape, spacing
        and direction, which is that of the files.

    Raises:
        DataError, with the file's name: one of the two is damaged, their sizes, spacings or
            directions differ, the spacing cannot be that of an echo, a label is unknown, the mask
            is empty, the grey levels are not 0 to 255, or nothing around the sector is black.
    """
    image, mask = read_image(case.image), read_image(case.mask)
    if image.pixels.shape != mask.pixels.shape:
        raise DataError(f"{case.mask}: is {mask.pixels.shape}, its image {case.image.name} is {image.pixels.shape}")
    check_geometry(case.image, case.mask, image, mask)
    check_field_of_view(case.image, image)
    check_grey_levels(case.image, image.pixels)
    check_black(case.image, image.pixels, "set what surrounds the sector to 0")
    return upright(image), upright(Image2D(_whole_labels(case.mask, mask.pixels), mask.spacing, mask.direction))


def upright(image: Image2D) -> Image2D:
    """`image` with columns to the left and rows downwards in ITK's world, as CAMUS's files have it; direction stays the file's.

    Tools that bring images to a common orientation reverse rows and columns and say so in the header. A direction
    that is no whole quarter turn, or none at all, changes nothing.
    """
    if image.direction is None:
        return image
    turn = np.rint(image.direction[:2]).astype(int)
    if abs(np.linalg.det(turn)) != 1 or not np.allclose(image.direction[:2], turn, atol=_ASKEW):
        return image
    pixels, spacing = image.pixels, image.spacing
    if turn[0, 0] == 0:  # columns run down
        pixels, spacing, turn = pixels.T, spacing[::-1], turn[:, ::-1]
    pixels = pixels[:: turn[1, 1], :: turn[0, 0]]
    return Image2D(np.ascontiguousarray(pixels), spacing, image.direction)


def check_black(path: Path, pixels: NDArray[np.generic], remedy: str) -> None:
    """Raise DataError, which names `path` and ends with `remedy`, where the sector would fill the whole frame: no pixel beside it is 0."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if (edge > 0).all() and sector_mask(
        pixels
    ).all():  # black at an edge is beside the sector: nearly always, and quickly seen
        raise DataError(
            f"{path}: no black (0) surrounds the sector, its darkest grey level is {pixels.min():g}; {remedy}"
        )


def check_geometry(image_path: Path, mask_path: Path, image: Image2D, mask: Image2D) -> None:
    """Raise DataError, which names the files, where spacings or directions of image and mask differ."""
    if not np.allclose(image.spacing, mask.spacing, rtol=1e-3):
        raise DataError(f"{mask_path}: spacing {mask.spacing} mm, its image has {image.spacing} mm")
    if image.direction is None or mask.direction is None:
        return
    if not np.allclose(image.direction, mask.direction, atol=1e-2):
        raise DataError(
            f"{mask_path}: its direction (orientation) differs from that of {image_path.name}: rows or columns run "
            "another way; save the mask on its image's grid"
        )


def check_field_of_view(path: Path, image: Image2D) -> None:
    """Raise DataError, which names `path`, where the spacing cannot be that of an echo image, in mm."""
    if image.spacing == (1.0, 1.0):
        raise DataError(f"{path}: spacing 1 x 1 mm, which tools write that lost it; store the true one, mm a pixel")
    check_extent(path, image, "is its spacing in millimetres?")


def check_extent(path: Path, image: Image2D, question: str) -> None:
    """Raise DataError, which names `path` and asks `question`, where an axis is too short or long for an echo image."""
    low, high = _FIELD_OF_VIEW_MM
    for length, spacing, axis in zip(image.pixels.shape, image.spacing, ("rows", "columns"), strict=True):
        if not low <= length * spacing <= high:
            raise DataError(
                f"{path}: {length} {axis} of {spacing:g} mm are {length * spacing:g} mm, expected {low:g} to {high:g} mm; "
                f"{question}"
            )


def _whole_labels(path: Path, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    labels = whole_numbers(path, pixels, sorted(specs.labels().nnunet_labels.values()))
    if not labels.any():
        raise DataError(f"{path}: the mask is empty (only background)")
    return labels


def whole_numbers(path: Path, pixels: NDArray[np.generic], known: Sequence[int], hint: str = "") -> NDArray[np.uint8]:
    """Values of a mask as uint8; those within 0.001 of a whole number, as resamplers leave them, are rounded.

    Raises DataError, which names `path` and ends with `hint`, for a value that is not `known`.
    """
    values = np.unique(pixels)
    wrong = [v for v in values.tolist() if round(v) not in known or abs(v - round(v)) > 1e-3]
    if wrong:
        shown = f"; {hint}" if hint else ""
        raise DataError(f"{path}: label {wrong[0]:g} found, expected {list(known)}{shown}")
    return np.rint(pixels).astype(np.uint8)  # type: ignore[call-overload,no-any-return]


def check_grey_levels(path: Path, pixels: NDArray[np.generic]) -> None:
    """Raise DataError, which names `path`, unless the grey levels are 0 to 255 and not all dark."""
    low, high = float(pixels.min()), float(pixels.max())  # type: ignore[attr-defined]
    if low < 0 or high > 255:
        raise DataError(f"{path}: grey levels from {low:g} to {high:g}, expected 0 to 255")
    if high == 0:
        raise DataError(f"{path}: the image is empty (all zero)")
    if high < _DIMMEST:
        raise DataError(
            f"{path}: grey levels from {low:g} to {high:g}, expected 0 to 255; images that were scaled, to 0..1 for "
            "example, must be scaled back"
        )
