""".mhd headers with odd values, cut and compressed data files."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import numpy as np

from echo_synth.data.nifti import read_image
from tests.fuzz.harness import Kind, mutate

_HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "0.4 0.3 1.5",
    "DimSize": "40 48 1",
    "ElementType": "MET_UCHAR",
    "ElementDataFile": "x.raw",
}
_LIES = {
    "NDims": ["0", "1", "2", "4", "-1", "11", "99999"],
    "DimSize": [
        "0 0 0",
        "-1 48 1",
        "99999 99999 1",
        "40 48",
        "40 48 2",
        "nan 1 1",
        "2147483647 2147483647 1",
        "1 1 1",
        "",
    ],
    "ElementSpacing": ["0 0 0", "-1 -1 1", "nan nan 1", "inf inf 1", "1e-300 1 1", "", "0.4", "a b c"],
    "ElementType": ["MET_FLOAT", "MET_DOUBLE", "MET_SHORT", "MET_UCHAR_ARRAY", "MET_STRING", "MET_OTHER", "BOGUS", ""],
    "ElementDataFile": [
        "LIST",
        "LOCAL",
        "../secret.raw",
        "/dev/zero",
        "none.raw",
        "x%02d.raw 1 1 1",
        "",
        ".",
        "x.mhd",
        "x\0y",
    ],
    "CompressedData": ["True"],
    "BinaryData": ["False"],
    "BinaryDataByteOrderMSB": ["True"],
    "TransformMatrix": ["nan 0 0 0 1 0 0 0 1", "inf 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0", "-1 0 0 0 -1 0 0 0 1", ""],
    "Offset": ["nan nan nan", "inf 0 0"],
    "ObjectType": ["Bogus", "Tube"],
    "HeaderSize": ["-1", "-2", "999999999", "100"],
    "ElementNumberOfChannels": ["0", "3", "-1", "999999999"],
    "CompressedDataSize": ["0", "-1", "999999999999", "10"],
    "Comment": ["x" * 100000],
}


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """One kind: header and data file."""
    folder = scratch / "in"
    folder.mkdir()
    (scratch / "secret.raw").write_bytes(b"\x07" * 1920)
    pixels = np.zeros((48, 40), np.uint8)
    pixels[5:40, 5:35] = np.random.default_rng(0).integers(1, 200, (35, 30))
    raw = pixels.tobytes()
    packed, bomb = zlib.compress(raw), zlib.compress(b"\1" * (1 << 26))

    def make(rng: random.Random, _: int) -> tuple[bytes, bytes]:
        header = dict(_HEADER)
        for _ in range(rng.choice([1, 1, 2, 3])):
            name = rng.choice(list(_LIES))
            header = {name: rng.choice(_LIES[name])} | header | {name: rng.choice(_LIES[name])}
        last = header.pop("ElementDataFile")
        text = "".join(f"{k} = {v}\n" for k, v in [*header.items(), ("ElementDataFile", last)]).encode(
            "latin1", "replace"
        )
        text = mutate(rng, text) if rng.random() < 0.2 else text
        data = rng.choice([raw, raw, raw, raw[:500], b"", raw * 2, packed, packed[:50], bomb, mutate(rng, packed)])
        return text + (raw if rng.random() < 0.1 else b""), data

    def read(damaged: tuple[bytes, bytes]) -> None:
        (folder / "x.mhd").write_bytes(damaged[0])
        (folder / "x.raw").write_bytes(damaged[1])
        image = read_image(folder / "x.mhd")
        assert np.isfinite(image.spacing).all(), "accepted a spacing that is no number"
        assert min(image.spacing) > 0, "accepted a spacing that is no length"
        assert not (image.pixels == 7).all(), "read a file outside its folder"

    return [Kind("mhd", make, read)]
