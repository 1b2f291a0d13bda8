"""The one reader of PNG files: 8-bit grey levels and palette maps, bounded before they are unpacked.

And a quick packer of grey levels, for those who write thousands.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from echo_synth.errors import DataError

MOST_PIXELS = 1 << 25
_HEADER = b"\x89PNG\r\n\x1a\n"
_DEPTH_AT = 24  # bits a channel and kind of colour: after the first chunk's length and name, width and height
_UP = 2  # the filter of a line that holds differences from the line above


def read_png(path: Path, modes: Sequence[str] = ("L",), size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Pixels (rows, columns) uint8 of a PNG with one 8-bit channel.

    Args:
        modes: "L" for grey levels, "P" for palette indices.
        size: rows and columns that it must have.

    Raises DataError when it is missing, damaged, of another depth or size, in colour, or too large.
    """
    with _opened(path) as image:
        _check(path, image, modes, size)
        return np.asarray(image, dtype=np.uint8)


def read_grey_png(path: Path) -> NDArray[np.uint8]:
    """Grey levels (rows, columns) uint8 of a PNG with 8 bits a channel; colours count by their brightness, what is
    transparent lies on black.

    Raises DataError when it is missing, damaged, of another depth, or too large.
    """
    with _opened(path) as image:
        _check(path, image, ("L", "LA", "P", "RGB", "RGBA"), None)
        if image.mode in ("LA", "RGBA") or "transparency" in image.info:
            image.load()
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
        return np.asarray(image.convert("L"), dtype=np.uint8)


def read_ids_png(path: Path) -> NDArray[np.uint8]:
    """Numbers (rows, columns) uint8 of a PNG mask: grey, palette indices, or three equal channels.

    Raises DataError when it is missing, damaged, of another depth, truly in colour, or too large.
    """
    with _opened(path, ids=True) as image:
        _check(path, image, ("L", "P", "RGB"), None)
        pixels = np.asarray(image, dtype=np.uint8)
    if pixels.ndim == 2:
        return pixels
    if not (pixels == pixels[..., :1]).all():
        raise DataError(f"{path}: is in colour, expected numbers of tissues (grey levels, or three equal channels)")
    return np.ascontiguousarray(pixels[..., 0])


@contextmanager
def _opened(path: Path, ids: bool = False) -> Iterator[Image.Image]:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            beginning = file.read(_DEPTH_AT + 2)
            if not beginning.startswith(_HEADER):
                raise DataError(f"{path}: not a PNG image")
            depth, colour = (*beginning[_DEPTH_AT:], 0, 0)[:2]
            if depth < 8 and colour == 0 and ids:  # Pillow stretches 0 to 3 to 0 to 255
                raise DataError(
                    f"{path}: has {depth} bits a pixel, expected 8, so that numbers of tissues are what they are"
                )
            if depth == 16 and colour:  # Pillow would cut it to its upper half in silence
                raise DataError(f"{path}: is 16-bit colour, expected 8 bits a channel; convert it first")
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as image:
                yield image
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except DataError:
        raise
    except Exception as e:  # Pillow has a dozen kinds for damaged files, SyntaxError among them
        raise DataError(f"{path}: damaged or not a readable PNG ({type(e).__name__}: {e!s:.80})") from None


def _check(path: Path, image: Image.Image, modes: Sequence[str], size: tuple[int, int] | None) -> None:
    columns, rows = image.size
    if size is not None and (rows, columns) != size:
        raise DataError(f"{path}: is {rows} x {columns}, expected {size[0]} x {size[1]} pixels")
    if rows * columns > MOST_PIXELS:
        raise DataError(f"{path}: promises {rows} x {columns} pixels, expected at most {MOST_PIXELS}")
    if image.mode not in modes:
        kind = {"I;16": "16-bit grey", "I": "32-bit grey", "1": "black and white", "P": "palette"}.get(image.mode)
        raise DataError(f"{path}: is {kind or image.mode}, expected 8-bit grey levels; convert it first")


def pack_grey_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of grey levels (rows, columns) uint8.

    Pillow tries five filters for every line, which takes longer than all the rest; speckle needs little more space with one.
    """
    from imagecodecs import deflate_encode  # reading needs none of it

    lines = np.full((pixels.shape[0], pixels.shape[1] + 1), _UP, np.uint8)
    lines[:1, 1:] = pixels[:1]
    np.subtract(pixels[1:], pixels[:-1], out=lines[1:, 1:])  # modulo 256, as the format has it
    header = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 0)  # 8 bits of grey, not interlaced
    packed = bytes(deflate_encode(lines.tobytes(), level=1))
    return _HEADER + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
