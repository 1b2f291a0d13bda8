"""The picture at the top of README: maps of simulated hearts and what is drawn for them, with the bundled weights.

Usage: python docs/recipes/readme_picture.py OUT.png
Columns: the label map; simulated physics; EDM-L64 at four evaluations; distilled to one. Rows: two hearts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from echo_synth import specs

SHOWN = (3, 4)  # images of every dataset, by name: one of four chambers, one of two
WAYS = {
    "simulated physics": ["--model", "bmode"],
    "EDM-L64, 4 evaluations": ["--model", "edm-l64", "--nfe", "4", "--device", "cpu"],
    "distilled, 1 evaluation": ["--model", "edm-l64", "--nfe", "1", "--device", "cpu"],
}
BAR = 22  # pixels above the images, for their names


def drawn(home: Path, options: list[str]) -> dict[str, NDArray[np.uint8]]:
    """The pictures SHOWN of a dataset that `generate` draws with these options, by the names of their maps."""
    command = [sys.executable, "-m", "cli.main", "generate", "--count", "8", "--seed", "1", *options]
    subprocess.run(command, check=True, env=os.environ | {"ECHOSYNTH_HOME": str(home)})
    files = sorted((home / "datasets/classification").rglob("*.png"), key=lambda file: file.name)
    rows = pd.read_parquet(next((home / "nnunet/raw").glob("*/manifest.parquet"))).set_index("image")
    return {rows.loc[files[i].stem, "map"]: np.asarray(Image.open(files[i]).convert("L")) for i in SHOWN}


def main(out: str) -> None:
    """Write the sheet."""
    columns: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for name, options in WAYS.items():
        with tempfile.TemporaryDirectory() as home:
            columns[name] = drawn(Path(home), options)
    shown = list(columns[next(iter(WAYS))])
    maps = specs.root() / "bundled/maps"
    columns = {"label map": {m: np.asarray(Image.open(maps / f"{m}.png").convert("RGB")) for m in shown}} | columns
    side = len(columns["label map"][shown[0]])
    sheet = Image.new("RGB", (side * len(columns), BAR + side * len(shown)))
    for x, (name, images) in enumerate(columns.items()):
        ImageDraw.Draw(sheet).text((x * side + 8, 5), name, fill="white")
        for y, map_name in enumerate(shown):
            sheet.paste(Image.fromarray(images[map_name]).convert("RGB"), (x * side, BAR + y * side))
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
