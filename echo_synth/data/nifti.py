"""One 2-D image or mask of a file: NIfTI or a one-slice .mhd."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from echo_synth.errors import DataError

_NIFTI_HEADER = 348  # bytes, NIfTI-1


@dataclass(frozen=True)
class Image2D:
    """One 2-D image or mask in upright array order.

    Attributes:
        pixels: (rows = depth, columns = lateral), the file's own dtype.
        spacing: millimetres a pixel, (row, column).
    """

    pixels: NDArray[np.generic]
    spacing: tuple[float, float]


def read_image(path: Path) -> Image2D:
    """Read a 2-D NIfTI or a one-slice .mhd. Raises DataError when it is damaged or not 2-D."""
    check_whole(path)
    try:
        # ITK prints its own long message on a damaged file; ours says it in one line.
        sitk.ProcessObject_SetGlobalWarningDisplay(False)
        image = sitk.ReadImage(str(path))
        pixels = sitk.GetArrayFromImage(image)
    except RuntimeError as e:
        reason = str(e).strip().splitlines()[-1].strip()
        raise DataError(f"{path}: damaged or not an image ({reason:.120})") from None
    if pixels.ndim == 3 and pixels.shape[0] == 1:  # the .mhd release: one slice
        pixels = pixels[0]
    if pixels.ndim != 2:
        raise DataError(f"{path}: has shape {pixels.shape}, expected a 2-D image")
    column, row = image.GetSpacing()[:2]
    return Image2D(pixels, (float(row), float(column)))


def check_whole(path: Path) -> None:
    """Raise DataError when a NIfTI file is shorter than its header says: ITK fills the rest with zeros, silently."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path}: damaged or not an image ({e})") from None
    if len(data) < _NIFTI_HEADER:
        raise DataError(f"{path}: damaged ({len(data)} bytes, less than a NIfTI header)")
    order = "<" if struct.unpack_from("<i", data, 0)[0] == _NIFTI_HEADER else ">"
    dimensions = struct.unpack_from(f"{order}8h", data, 40)
    (bits,) = struct.unpack_from(f"{order}h", data, 72)
    (offset,) = struct.unpack_from(f"{order}f", data, 108)
    pixels = int(np.prod([d for d in dimensions[1 : 1 + dimensions[0]] if d > 0], dtype=np.int64))
    if len(data) < offset + pixels * bits // 8:
        raise DataError(f"{path}: damaged ({len(data)} bytes, its header promises {int(offset) + pixels * bits // 8})")
