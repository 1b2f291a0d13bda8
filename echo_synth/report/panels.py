"""Pictures of several panels, cut apart: on a phone a page puts one panel a row."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from PIL import Image

PANELS = "Panels"  # text of a PNG: columns x rows of panels of one size
_MOST_PANELS, _MOST_PIXELS = 64, 1 << 25
_TILE = 128  # pixels: width of a preview's panel, an image above its map


def cut(png: bytes) -> list[bytes]:
    """The panels of a PNG that states how many it has, row by row, without black ones; empty where it does not."""
    return _cut(png, _stated)


def cut_preview(png: bytes) -> list[bytes]:
    """The panels of a dataset's preview.png; empty where it is something else."""
    return _cut(png, lambda image: _whole(image.width, _TILE, image.height, 2 * _TILE))


def _cut(png: bytes, panels_of: Callable[[Image.Image], tuple[int, int]]) -> list[bytes]:
    try:
        with Image.open(BytesIO(png), formats=("PNG",)) as image:
            if image.width * image.height > _MOST_PIXELS:
                return []
            columns, rows = panels_of(image)
            if min(columns, rows) < 1 or not 1 < columns * rows <= _MOST_PANELS:
                return []
            pixels = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return []  # what cannot be cut is shown whole, or refused by its reader
    width, height = pixels.width // columns, pixels.height // rows
    places = [(x * width, y * height) for y in range(rows) for x in range(columns)]
    tiles = [pixels.crop((x, y, x + width, y + height)) for x, y in places]
    return [_png(tile) for tile in tiles if tile.getbbox() is not None]


def _stated(image: Image.Image) -> tuple[int, int]:
    columns, _, rows = str(image.info.get(PANELS, "0x0"))[:20].partition("x")
    return int(columns), int(rows)


def _whole(width: int, of: int, height: int, of_height: int) -> tuple[int, int]:
    return (0, 0) if width % of or height % of_height else (width // of, height // of_height)


def _png(tile: Image.Image) -> bytes:
    buffer = BytesIO()
    tile.save(buffer, "PNG")
    return buffer.getvalue()
