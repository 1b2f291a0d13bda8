"""The one reader and the one writer of 2-D images and masks: NIfTI and one-slice .mhd.

Headers are checked here before any pixel is read. ITK, which could read both, hangs on an
infinite orientation, dies on absurd dimensions, fills cut files with zeros, and makes
NaN pixels black; none of that reaches it.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.image2d import Image2D, check_pixels, check_size, check_spacing
from echo_synth.data.metaimage import read_metaimage
from echo_synth.errors import DataError

__all__ = ["Image2D", "read_image", "read_pixels", "write_image"]

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

_HEADER_BYTES = 348  # NIfTI-1
_PIXELS_AT = 352  # in what is written here
_TYPE_CODES = {"|u1": 2, "<f4": 16}
_LONGEST_SIDE = 32767
_MM_AND_SECONDS = 2 + 8
# Speckle hardly packs: higher levels take up to twice the time for a hundredth of the bytes.
_LEVEL = 1
_MOST_EXTRA = 1 << 20  # bytes before and after the pixels: header extensions, padding
_SAME_SPACING = 0.01  # relative; headers are rounded
_MM_A_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 1e-3}


def read_image(path: Path, spacing: tuple[float, float] | None = None) -> Image2D:
    """Read a 2-D NIfTI (.nii, .nii.gz) or a one-slice .mhd.

    Args:
        spacing: mm per pixel, (row, column), where it is known better than the file says.

    Raises DataError, with the file's name, when it is truncated, damaged or not 2-D, when pixels are not real and
    finite, or when the spacing in mm is missing, stated twice and differently, or impossible.
    """
    try:
        image = read_metaimage(path) if path.name.endswith((".mhd", ".mha")) else _read_nifti(path, spacing)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e})") from None
    if spacing is not None:
        image = Image2D(image.pixels, spacing, image.direction)
    check_pixels(path, image.pixels)
    check_spacing(path, image.spacing)
    return image


def read_pixels(path: Path) -> NDArray[np.generic]:
    """Pixels (rows, columns) of an image, see `read_image`."""
    return read_image(path).pixels


@contextmanager
def _open_whole(path: Path) -> Iterator[IO[bytes]]:
    """The file's uncompressed bytes; a broken or cut compression is a DataError."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file")
    with open(path, "rb") as raw:
        try:
            yield gzip.GzipFile(fileobj=raw, mode="rb") if path.suffix == ".gz" else raw  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            raise DataError(f"{path}: damaged or not an image ({e})") from None


def _read_nifti(path: Path, known: tuple[float, float] | None) -> Image2D:
    with _open_whole(path) as file:
        header = _read_header(path, file.read(_HEADER_BYTES))
        columns, rows = _plane(path, header)
        dtype = _dtype(path, header)
        start, count = _offset(path, header), columns * rows * dtype.itemsize
        data = file.read(start - _HEADER_BYTES + count + _MOST_EXTRA)  # never more, whatever is packed into the file
    here = len(data) + _HEADER_BYTES
    if here < start + count:
        raise DataError(f"{path}: damaged ({here} bytes, its header promises {start + count})")
    if len(data) - (start - _HEADER_BYTES + count) >= _MOST_EXTRA and path.suffix == ".gz":
        raise DataError(f"{path}: holds far more than its header promises ({start + count} bytes)")
    pixels = np.frombuffer(data, dtype, columns * rows, start - _HEADER_BYTES).reshape(rows, columns)
    pixels = _scaled(path, header, pixels.astype(dtype.newbyteorder("=")))
    spacing, direction = known or _spacing(path, header), _direction(path, header)
    if known is None:
        _check_agreement(path, header, spacing)
    return Image2D(pixels, spacing, direction)


def _read_header(path: Path, block: bytes) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header

    if len(block) < _HEADER_BYTES:
        raise DataError(f"{path}: damaged ({len(block)} bytes, less than a NIfTI header)")
    header = Nifti1Header(block, check=False)
    if int(header["sizeof_hdr"]) != _HEADER_BYTES or bytes(header["magic"].item()) != b"n+1":
        raise DataError(f"{path}: damaged or not an image (no NIfTI-1 header)")
    return header


def _plane(path: Path, header: Nifti1Header) -> tuple[int, int]:
    """Columns and rows of the one plane that the header describes."""
    axes, *lengths = (int(n) for n in header["dim"])
    if not 2 <= axes <= 7:
        raise DataError(f"{path}: its header has {axes} axes, expected a 2-D image")
    check_size(path, tuple(lengths[:axes]))
    return lengths[0], lengths[1]


def _dtype(path: Path, header: Nifti1Header) -> np.dtype[np.generic]:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError, TypeError):
        dtype = np.dtype("V1")
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        code = int(header["datatype"])
        raise DataError(f"{path}: pixels of NIfTI type {code} ({dtype}), expected real numbers of up to 64 bits")
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise DataError(f"{path}: damaged ({header['bitpix']} bits a pixel, its type has {8 * dtype.itemsize})")
    return dtype


def _offset(path: Path, header: Nifti1Header) -> int:
    """Byte at which the pixels begin; 0 in a header means directly after it and its four extension bytes."""
    offset = float(header["vox_offset"])
    if offset == 0:
        return _HEADER_BYTES + 4
    if not _HEADER_BYTES <= offset <= _HEADER_BYTES + _MOST_EXTRA or offset % 1:
        raise DataError(f"{path}: damaged (its pixels would begin at byte {offset:g})")
    return int(offset)


def _scaled(path: Path, header: Nifti1Header, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """`pixels` as numbers of the world: slope · pixel + intercept, where the header has a slope (neither 0 nor NaN)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope) or (slope, intercept) == (1.0, 0.0):
        return pixels
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(f"{path}: damaged (pixels scaled by {slope:g}, shifted by {intercept:g})")
    with np.errstate(over="ignore", invalid="ignore"):
        return (pixels.astype(np.float64) * slope + intercept).astype(np.float32)


def _spacing(path: Path, header: Nifti1Header) -> tuple[float, float]:
    try:
        unit = _MM_A_UNIT[header.get_xyzt_units()[0]]
    except KeyError:
        raise DataError(f"{path}: damaged (unit of length {int(header['xyzt_units'])})") from None
    column, row = (float(s) * unit for s in header["pixdim"][1:3])
    return row, column


def _check_agreement(path: Path, header: Nifti1Header, spacing: tuple[float, float]) -> None:
    """Refuse pixel sizes that are stated twice and differ: every distance in mm would be wrong by one of the two."""
    if int(header["sform_code"]) <= 0 or not all(0 < s < math.inf for s in spacing):  # `check_spacing` refuses those
        return
    unit = _MM_A_UNIT[header.get_xyzt_units()[0]]
    column, row = np.linalg.norm(np.asarray(header.get_sform(), np.float64)[:3, :2], axis=0) * unit
    if not np.allclose((row, column), spacing, rtol=_SAME_SPACING):
        raise DataError(
            f"{path}: its header states pixels of {spacing[0]:g} x {spacing[1]:g} mm (pixdim) and of {row:g} x {column:g} mm "
            "(sform); save it again with the right ones"
        )


def _direction(path: Path, header: Nifti1Header) -> NDArray[np.float64] | None:
    from nibabel.spatialimages import HeaderDataError

    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        return None
    try:
        with np.errstate(all="ignore"):
            affine = header.get_sform() if header["sform_code"] > 0 else header.get_qform()
            vectors = np.asarray(affine, np.float64)[:3, :2] * [[-1], [-1], [1]]  # NIfTI's world to ITK's
            direction: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=0)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        direction = np.full((3, 2), np.nan)
    if not np.isfinite(direction).all():
        raise DataError(f"{path}: damaged (its orientation is not made of numbers)")
    return direction


def write_image(path: Path, pixels: NDArray[np.generic], spacing: tuple[float, float]) -> None:
    """Write a true 2-D NIfTI with identity direction and origin 0, completely or not at all.

    Args:
        path: .nii, or .nii.gz to compress it.
        pixels: (rows, columns); uint8 or float32, finite.
        spacing: mm, (row, column).

    Raises:
        OSError, with `path` as its file name: the disk is full or not writable.
        DataError: `read_image` would refuse the file.
        TypeError, ValueError: pixels of another type or number of axes, a name of another format.
    """
    data = _encoded(path, pixels, spacing)
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as e:
        path.unlink(missing_ok=True)
        raise OSError(e.errno, e.strerror, str(path)) from None  # a full disk is met while writing, which names no file


def _encoded(path: Path, pixels: NDArray[np.generic], spacing: tuple[float, float]) -> bytes:
    check_size(path, pixels.shape)
    check_pixels(path, pixels)
    check_spacing(path, spacing)
    stored = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    content = _header_block(stored, spacing) + stored.tobytes()
    if path.name.endswith(".nii.gz"):
        from imagecodecs import gzip_encode  # reading needs none of it

        return bytes(gzip_encode(content, level=_LEVEL))
    if path.suffix != ".nii":
        raise ValueError(f"{path}: expected a name that ends in .nii or .nii.gz")
    return content


def _header_block(pixels: NDArray[np.generic], spacing: tuple[float, float]) -> bytes:
    """Header and the four bytes after it, byte for byte as ITK writes them for an image of its own world.

    ITK's x and y run against NIfTI's: a half turn about z, in quaternion and matrix.
    """
    if pixels.dtype.str not in _TYPE_CODES or pixels.ndim != 2 or max(pixels.shape) > _LONGEST_SIDE:
        raise TypeError(
            f"found {pixels.dtype} {pixels.shape}, expected uint8 or float32 with 2 axes of at most {_LONGEST_SIDE}"
        )
    (rows, columns), (row, column), block = pixels.shape, spacing, bytearray(_PIXELS_AT)
    struct.pack_into("<i", block, 0, _HEADER_BYTES)
    struct.pack_into("<c", block, 38, b"r")  # "regular", of the format's ancestor
    struct.pack_into("<8h", block, 40, 2, columns, rows, 1, 1, 1, 1, 1)  # axes and their lengths
    struct.pack_into("<2h", block, 70, _TYPE_CODES[pixels.dtype.str], 8 * pixels.dtype.itemsize)
    struct.pack_into("<4f", block, 76, 1, column, row, 1)  # pixdim, first the handedness
    struct.pack_into("<3f", block, 108, _PIXELS_AT, 1, 0)  # where pixels begin; slope, intercept
    struct.pack_into("<b", block, 123, _MM_AND_SECONDS)
    struct.pack_into("<2h", block, 252, 1, 1)  # qform, sform: scanner coordinates
    struct.pack_into("<6f", block, 256, 0, 0, 1, -0.0, -0.0, 0)  # quaternion, origin
    struct.pack_into("<12f", block, 280, -column, 0, 0, -0.0, 0, -row, 0, -0.0, 0, 0, 1, 0)
    struct.pack_into("<4s", block, 344, b"n+1")
    return bytes(block)
