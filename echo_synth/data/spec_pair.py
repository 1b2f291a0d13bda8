"""Image and mask of one case of a spec, read together, checked, and brought to the chain's labels, spacing and sector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.dataset_spec import SpecFile
from echo_synth.data.nifti import Image2D, read_image
from echo_synth.data.pair import (
    check_black,
    check_extent,
    check_field_of_view,
    check_geometry,
    check_grey_levels,
    whole_numbers,
)
from echo_synth.data.png import read_grey_png, read_ids_png
from echo_synth.data.spec_cases import SpecCase
from echo_synth.errors import DataError


def read_spec_case(case: SpecCase, file: SpecFile) -> tuple[Image2D, Image2D]:
    """Image and mask of a case.

    Returns:
        image with finite pixels in [0, 255], above 0 all over where the sector is the frame; mask uint8, labels
        0 to 3 as the spec's tissues; same shape and spacing.

    Raises:
        DataError, with the file's name: one of the two is damaged, they do not fit each other, the spacing cannot
            be that of an ultrasound image, the grey levels are not 0 to 255, the mask is empty, it holds a value
            that the spec does not name (with line and key), or the sector is to be found and nothing around it is black.
    """
    spec = file.spec
    image, mask = _read(case.image, spec.spacing, grey=True), _read(case.mask, spec.spacing, grey=False)
    if image.pixels.shape != mask.pixels.shape:
        raise DataError(f"{case.mask}: is {mask.pixels.shape}, its image {case.image.name} is {image.pixels.shape}")
    check_geometry(case.image, case.mask, image, mask)
    if spec.spacing is None:
        check_field_of_view(case.image, image)
    else:
        check_extent(case.image, image, f"is {file.at('spacing')} right?")
    check_grey_levels(case.image, image.pixels)
    if spec.sector == "frame":  # what is written keeps its sector at 1 or more, so that every reader finds the frame
        image = Image2D(np.maximum(image.pixels, 1).astype(image.pixels.dtype), image.spacing, image.direction)
    else:
        remedy = f"set what surrounds it to 0, or {file.at('sector')} to frame"
        check_black(case.image, image.pixels, remedy)
    return image, Image2D(_labels(case.mask, mask.pixels, file), mask.spacing, mask.direction)


def _read(path: Path, spacing: tuple[float, float] | None, grey: bool) -> Image2D:
    if path.suffix == ".png":
        assert spacing is not None  # `read_dataset_spec` refuses PNG files without
        return Image2D(read_grey_png(path) if grey else read_ids_png(path), spacing)
    return read_image(path, spacing)


def _labels(path: Path, pixels: NDArray[np.generic], file: SpecFile) -> NDArray[np.uint8]:
    """nnU-Net labels of a mask's values."""
    tissues = file.spec.tissues()
    meaning = dict.fromkeys(file.spec.background, 0)
    meaning |= {value: tissues[name] for name, label in file.spec.labels.items() for value in label.values}
    values = whole_numbers(path, pixels, sorted(meaning), f"name it in {file.at('labels')}, or as background")
    table = np.zeros(256, np.uint8)
    for value, label in meaning.items():
        table[value] = label
    labels: NDArray[np.uint8] = table[values]
    if not labels.any():
        raise DataError(f"{path}: the mask is empty (only background)")
    return labels
