"""One-slice MetaImage (.mhd with its data file, .mha), the file type of CAMUS's older release."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.image2d import Image2D, check_size
from echo_synth.errors import DataError

_MOST_HEADER = 1 << 16  # bytes
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_LAST = "ElementDataFile"  # the header ends with it


def read_metaimage(path: Path) -> Image2D:
    """Read a one-slice MetaImage. Raises DataError when it is damaged or not 2-D, OSError when it cannot be opened."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file")
    with open(path, "rb") as file:
        head = file.read(_MOST_HEADER)
    fields, end = _fields(path, head)
    axes = _whole(path, fields, "NDims")
    if axes not in (2, 3):
        raise DataError(f"{path}: NDims is {axes}, expected 2 or 3")
    columns, rows, *others = _numbers(path, fields, "DimSize", axes)
    shape = tuple(int(n) if abs(n) < 1e9 and n % 1 == 0 else 0 for n in (columns, rows, *others))
    check_size(path, shape)
    _check_kind(path, fields)
    dtype = _dtype(path, fields)
    data = _data(path, fields, end, shape[0] * shape[1] * dtype.itemsize)
    pixels = np.frombuffer(data, dtype).reshape(shape[1], shape[0]).astype(dtype.newbyteorder("="))
    spacing = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    column, row, *_ = _numbers(path, fields, spacing, axes)
    return Image2D(pixels, (row, column), _direction(path, fields, axes))


def _fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """Header fields, and the byte at which the header ends."""
    fields: dict[str, str] = {}
    position = 0
    while _LAST not in fields:
        stop = head.find(b"\n", position)
        line = head[position : stop if stop >= 0 else len(head)]
        key, separator, value = line.partition(b"=")
        if not separator:
            raise DataError(f"{path}: damaged or not an image (no {_LAST} in a MetaImage header)")
        name = key.decode("latin1").strip()
        if name in fields:
            raise DataError(f"{path}: {name} is given twice")
        fields[name] = value.decode("utf-8", "replace").strip()
        position = stop + 1 if stop >= 0 else len(head)
    return fields, position


def _numbers(path: Path, fields: Mapping[str, str], name: str, count: int) -> list[float]:
    """The `count` finite numbers of a field."""
    try:
        numbers = [float(part) for part in fields[name].split()]
    except KeyError:
        raise DataError(f"{path}: no {name} in its header") from None
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise DataError(f"{path}: {name} is '{fields[name]:.40}', expected {count} numbers")
    return numbers


def _whole(path: Path, fields: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,12}", fields.get(name, "")):
        raise DataError(f"{path}: {name} is '{fields.get(name, ''):.40}', expected a whole number")
    return int(fields[name])


def _check_kind(path: Path, fields: Mapping[str, str]) -> None:
    """Refuse what a MetaImage may be and an echo image is not."""
    expected = {"ObjectType": "image", "BinaryData": "true", "ElementNumberOfChannels": "1"}
    for name, value in expected.items():
        if fields.get(name, value).lower() != value:
            raise DataError(f"{path}: {name} is '{fields[name]:.40}', expected {value.capitalize()}")


def _is_true(fields: Mapping[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower() in ("true", "1") for name in names)


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[np.generic]:
    kind = fields.get("ElementType", "")
    if kind not in _DTYPES:
        raise DataError(f"{path}: ElementType is '{kind:.40}', expected one of {', '.join(_DTYPES)}")
    order = ">" if _is_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    return np.dtype(order + _DTYPES[kind])


def _data(path: Path, fields: Mapping[str, str], end: int, count: int) -> bytes:
    """The `count` bytes of pixels, from the header's own file or the one that it names."""
    name = fields[_LAST]
    if name in ("LOCAL", "Local", "local"):
        source, start = path, end
    else:
        source, start = _beside(path, name), _header_size(path, fields)
    packed = _is_true(fields, "CompressedData")
    size = source.stat().st_size
    if start < 0:  # MetaImage's way to say: the pixels are the last bytes
        start = size if packed else max(0, size - count)
    if not packed and size != start + count:
        raise DataError(f"{source}: damaged ({size} bytes, {path.name} promises {start + count})")
    with open(source, "rb") as file:
        file.seek(start)
        data = file.read(2 * count + (1 << 16))
    return _unpacked(source, path, data, count) if packed else data


def _header_size(path: Path, fields: Mapping[str, str]) -> int:
    size = _whole(path, fields, "HeaderSize") if "HeaderSize" in fields else 0
    if size < -1:
        raise DataError(f"{path}: HeaderSize is {size}, expected -1, 0 or more")
    return size


def _unpacked(source: Path, path: Path, data: bytes, count: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        result = unpacker.decompress(data, count + 1)
    except zlib.error as e:
        raise DataError(f"{source}: damaged ({e})") from None
    if len(result) != count:
        raise DataError(f"{source}: damaged (does not unpack to the {count} bytes that {path.name} promises)")
    return result


def _beside(path: Path, name: str) -> Path:
    """The data file that a header names; one outside the header's folder is refused."""
    if not name or "\0" in name or len(name) > 255 or name.startswith("LIST") or "%" in name:
        raise DataError(f"{path}: {_LAST} is '{name:.40}', expected one file beside it")
    source = path.parent / name
    homes = (path.parent.resolve(), path.resolve().parent)
    if not any(source.resolve().is_relative_to(home) for home in homes):
        raise DataError(f"{path}: {_LAST} '{name:.80}' is outside its folder")
    if not source.is_file():
        raise DataError(f"{source}: missing; {path.name} names it as its pixels")
    return source


def _direction(path: Path, fields: Mapping[str, str], axes: int) -> NDArray[np.float64] | None:
    name = next((n for n in ("TransformMatrix", "Rotation", "Orientation") if n in fields), None)
    if name is None:
        return None
    matrix = np.reshape(_numbers(path, fields, name, axes * axes), (axes, axes))
    vectors = np.zeros((3, 2))
    vectors[:axes] = matrix[:2].T  # MetaImage lists one axis after the other
    lengths = np.linalg.norm(vectors, axis=0)
    if not lengths.all():
        raise DataError(f"{path}: {name} is '{fields[name]:.40}', expected directions of an image's axes")
    direction: NDArray[np.float64] = vectors / lengths
    return direction
