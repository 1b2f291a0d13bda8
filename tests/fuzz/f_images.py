"""NIfTI headers and pixels, damaged: one image, and a pair that is converted."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import numpy as np

from echo_synth.data.camus import CamusCase
from echo_synth.data.nifti import read_image, write_image
from echo_synth.data.pair import read_case
from echo_synth.data.tissues import derive_case
from echo_synth.types import CaseId
from tests.fuzz.harness import Kind, mutate

_FLOATS = [
    *(0.0, -0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-38, 1e38, 0.5, 2.0, 352.0, 348.0, 1e9, -352.0),
]
_AXES = [0, 1, 2, 3, 4, 5, 7, 8, -1, -32768, 32767, 255, 48, 40]
_TYPES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 255, -1]
_PIXELS = [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f"]


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """Reading one image, and reading and converting a pair."""
    folder = base / "phantom/database_nifti/patient0001"
    image, mask = (_small(folder / f"patient0001_2CH_ED{end}.nii.gz", scratch) for end in ("", "_gt"))
    return [_image([image, mask], scratch), _pair(image, mask, scratch)]


def _small(source: Path, scratch: Path) -> bytes:
    """An uncompressed NIfTI of every eighth pixel, float32, to be quick."""
    pixels = read_image(source).pixels[::8, ::8].astype(np.float32)
    write_image(scratch / "small.nii", pixels, (0.5, 0.4))
    return (scratch / "small.nii").read_bytes()


def _damaged_header(rng: random.Random, data: bytes) -> bytes:
    b = bytearray(data)
    fields = [
        ("<h", 40 + 2 * rng.randrange(8), _AXES),
        ("<h", 70, _TYPES),
        ("<h", 72, [0, 1, 8, 16, 24, 32, 64, 128, -1, -8, 32767]),
        ("<f", 76 + 4 * rng.randrange(8), _FLOATS),
        ("<f", 108, _FLOATS),
        ("<f", rng.choice([112, 116]), _FLOATS),
        ("<h", rng.choice([252, 254]), [0, 1, 2, 3, 4, -1, 99]),
        ("<f", rng.choice(range(256, 328, 4)), _FLOATS),
        ("4s", 344, [b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"n+9\0"]),
        ("4s", 348, [b"\1\0\0\0", b"\xff\xff\xff\xff"]),
        ("<i", 0, [348, 540, 0, -1, 1543569408]),
    ]
    for _ in range(rng.choice([1, 1, 2, 3])):
        form, at, values = rng.choice(fields)
        struct.pack_into(form, b, at, rng.choice(values))
    return mutate(rng, bytes(b), 1) if rng.random() < 0.1 else bytes(b)


def _image(wholes: list[bytes], scratch: Path) -> Kind:
    def make(rng: random.Random, _: int) -> tuple[str, bytes]:
        whole, how = rng.choice(wholes), rng.randrange(6)
        if how == 0:
            return "x.nii.gz", mutate(rng, gzip.compress(whole, 1))
        data = bytearray(whole)
        for _ in range(rng.choice([1, 5, 100])):
            at = 352 + 4 * rng.randrange((len(data) - 352) // 4)
            data[at : at + 4] = rng.choice(_PIXELS)
        damaged = [bytes(data), mutate(rng, whole), *[_damaged_header(rng, whole)] * 3][how - 1]
        return rng.choice([("x.nii", damaged), ("x.nii.gz", gzip.compress(damaged, 1))])

    def read(damaged: tuple[str, bytes]) -> None:
        (scratch / damaged[0]).write_bytes(damaged[1])
        image = read_image(scratch / damaged[0])
        assert np.isfinite(image.spacing).all(), "accepted a spacing that is no number"
        assert min(image.spacing) > 0, "accepted a spacing that is no length"
        assert np.isfinite(image.pixels).all(), "accepted pixels that are no numbers"

    return Kind("nifti", make, read)


def _pair(image: bytes, mask: bytes, scratch: Path) -> Kind:
    case = CamusCase(CaseId("patient0001", "2CH", "ED"), scratch / "i.nii", scratch / "m.nii")

    def make(rng: random.Random, _: int) -> tuple[bytes, bytes]:
        damaged = [_damaged_header(rng, whole) if rng.random() < 0.6 else whole for whole in (image, mask)]
        return damaged[0], damaged[1]

    def read(damaged: tuple[bytes, bytes]) -> None:
        for path, data in zip((case.image, case.mask), damaged, strict=True):
            path.write_bytes(data)
        derived = derive_case(*read_case(case), 32)
        assert min(derived.spacing) > 0, "accepted a spacing that is no length"
        assert derived.image[derived.sector].min() >= 1, "a sector that its readers lose"

    return Kind("nifti_pair", make, read)
