"""Every combination of spacing, orientation codes and slope in a NIfTI header, and of spacing lines in an .mhd header."""

from __future__ import annotations

import itertools
import math
import random
import struct
from pathlib import Path

import numpy as np

from echo_synth.data.nifti import read_image, write_image
from tests.fuzz.harness import Kind

_NIFTI = list(
    itertools.product(
        (None, (0, 0), (1, 0), (0, 1)),
        (0.0, -0.3, math.nan, math.inf, 1e-30, 1e30, 0.25),
        (None, 0.0, 2.0, math.nan, math.inf, -1.0),
    )
)
_MHD = ["0 0 0", "-1 -1 1", "nan nan 1", "inf inf 1", "0.4", "", "a b c", "1e-300 1 1", None, "0.4 0.3 1"]
_LINES = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 4 3 1\nElementType = MET_UCHAR\n"


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """One kind: what says how large a pixel is."""
    write_image(scratch / "whole.nii", np.ones((3, 4), np.float32), (0.25, 0.25))
    whole = (scratch / "whole.nii").read_bytes()
    (scratch / "x.raw").write_bytes(bytes(range(12)))

    def make(rng: random.Random, number: int) -> tuple[Path, bytes, float | None]:
        number %= len(_MHD) + len(_NIFTI)
        if number < len(_MHD):
            value = _MHD[number]
            spacing = f"ElementSpacing = {value}\n" if value is not None else ""
            text = _LINES + spacing + "ElementDataFile = x.raw\n"
            return scratch / "x.mhd", text.encode(), 0.3 if value == "0.4 0.3 1" else None
        codes, size, slope = _NIFTI[number - len(_MHD)]
        b = bytearray(whole)
        struct.pack_into("<2f", b, 80, size, size)
        if codes:
            struct.pack_into("<2h", b, 252, *codes)
        if slope is not None:
            struct.pack_into("<2f", b, 112, slope, 0.0)
        return scratch / "x.nii", bytes(b), size if 1e-3 < size < 100 else None

    def read(case: tuple[Path, bytes, float | None]) -> None:
        path, data, expected = case
        path.write_bytes(data)
        image = read_image(path)
        assert expected is not None, f"took {image.spacing} mm, which the header does not hold"
        assert math.isclose(image.spacing[0], expected, rel_tol=1e-4)

    return [Kind("spacing", make, read)]
