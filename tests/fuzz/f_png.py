"""PNG and other pictures as condition maps and as images of the classifier."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from echo_synth.data.maps import read_map
from echo_synth.data.png import read_grey_png
from tests.fuzz.harness import Kind, mutate


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """Maps, and grey images."""
    a_map = next((base / "home/maps").glob("*/*.png")).read_bytes()
    grey = next((base / "home/datasets/classification").glob("*/train/2CH/*.png")).read_bytes()
    made = _made(np.asarray(Image.open(io.BytesIO(a_map))))

    def make(rng: random.Random, number: int) -> tuple[str, bytes]:
        if number < len(made):
            return made[number]
        damaged = mutate(rng, rng.choice([a_map, grey]), rng.choice([1, 2]))
        return "mutated", _right_checksums(damaged) if rng.random() < 0.7 else damaged

    def read_as_map(case: tuple[str, bytes]) -> None:
        (scratch / "m.png").write_bytes(case[1])
        read_map(scratch / "m.png")
        assert case[0] in ("ids", "mutated"), f"accepted {case[0]} as tissue ids"

    def read_as_grey(case: tuple[str, bytes]) -> None:
        (scratch / "g.png").write_bytes(case[1])
        read_grey_png(scratch / "g.png")
        assert "16 bit" not in case[0], "16 bits became 8 without a word"

    return [Kind("map_png", make, read_as_map), Kind("grey_png", make, read_as_grey)]


def _made(ids: np.ndarray) -> list[tuple[str, bytes]]:
    """Pictures that are no tissue maps, and one that is."""
    sixteen = Image.fromarray(ids.astype(np.uint16) + 256)
    text = zlib.compress(b"a" * (1 << 27))
    size = struct.pack(">IIBBBBB", 256, 256, 8, 0, 0, 0, 0)
    text_bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"zTXt", b"a\0\0" + text) + _chunk(b"IEND", b"")
    return [
        ("ids", _saved(Image.fromarray(ids))),
        ("colour", _saved(Image.fromarray(ids).convert("RGB"))),
        ("16 bit", _saved(sixteen)),
        ("1 bit", _saved(Image.fromarray(ids > 0))),
        ("small", _saved(Image.fromarray(ids[:128, :128]))),
        ("ids from 200", _saved(Image.fromarray(ids + 200))),
        ("jpeg", _saved(Image.fromarray(ids), "JPEG")),
        ("float tiff", _saved(Image.fromarray(ids.astype(np.float32) + 0.7), "TIFF")),
        ("bmp", _saved(Image.fromarray(ids), "BMP")),
        ("empty", b""),
        ("bomb", _png(60000, 60000)),
        ("larger bomb", _png(2**31 - 1, 2**31 - 1)),
        ("no pixels", _png(0, 0)),
        ("text bomb", text_bomb),
    ]


def _saved(image: Image.Image, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(columns: int, rows: int) -> bytes:
    size = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def _right_checksums(data: bytes) -> bytes:
    """So that a reader gets past them to what was damaged."""
    result, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        if at + 12 + length > len(data):
            return bytes(result + data[at:])
        result += _chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return bytes(result)
