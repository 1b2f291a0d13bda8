"""The picture at the top of README: maps of simulated hearts and what is drawn for them, with the bundled weights.

Usage: python docs/recipes/readme_picture.py OUT.png
Columns: the label map; simulated physics; EDM-L64 at four evaluations; distilled to one. Rows: ED and ES of a heart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from echo_synth import specs

SHOWN = (2, 3)  # images of every dataset: end-diastole and end-systole of the first heart, four chambers
WAYS = {
    "simulated physics": ["--model", "bmode"],
    "EDM-L64, 4 evaluations": ["--model", "edm-l64", "--nfe", "4", "--device", "cpu"],
    "distilled, 1 evaluation": ["--model", "edm-l64", "--nfe", "1", "--device", "cpu"],
}
BAR = 22  # pixels above the images, for their names


def drawn(home: Path, options: list[str]) -> list[NDArray[np.uint8]]:
    """The pictures of the images SHOWN of a dataset that `generate` draws with these options."""
    command = [sys.executable, "-m", "cli.main", "generate", "--count", str(max(SHOWN) + 1), "--seed", "1", *options]
    subprocess.run(command, check=True, env=os.environ | {"ECHOSYNTH_HOME": str(home)})
    pictures = sorted((home / "datasets/classification").rglob("*.png"), key=lambda file: file.name)
    return [np.asarray(Image.open(pictures[i]).convert("L")) for i in SHOWN]


def maps() -> list[NDArray[np.uint8]]:
    """The maps that SHOWN are drawn for, in the tissues' colours."""
    files = sorted((specs.root() / "bundled/maps").glob("*.png"))
    return [np.asarray(Image.open(files[i]).convert("RGB")) for i in SHOWN]


def main(out: str) -> None:
    """Write the sheet."""
    columns: dict[str, list[NDArray[np.uint8]]] = {"label map": maps()}
    for name, options in WAYS.items():
        with tempfile.TemporaryDirectory() as home:
            columns[name] = drawn(Path(home), options)
    side = columns["label map"][0].shape[0]
    sheet = Image.new("RGB", (side * len(columns), BAR + side * len(SHOWN)))
    for x, (name, images) in enumerate(columns.items()):
        ImageDraw.Draw(sheet).text((x * side + 8, 5), name, fill="white")
        for y, image in enumerate(images):
            sheet.paste(Image.fromarray(image).convert("RGB"), (x * side, BAR + y * side))
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
