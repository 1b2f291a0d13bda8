"""What can be leafed through: the cases of a raw dataset, their pictures, and what `quality` said of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from echo_synth import specs
from echo_synth.data.nifti import read_pixels
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.tissue_colours import tissue_colours
from echo_synth.errors import DataError

_SHOWN = ("case", "patient", "view", "phase", "split")
_OPACITY = 110  # of 255, so that grain and edges are seen through


@dataclass(frozen=True)
class Album:
    """A raw dataset as it is shown.

    Attributes:
        dataset: where it is.
        rows: of each case: case, patient, view, phase, split, kind ("real" or "drawn") and flags.
        places: split by case; what is not in it is not shown.
    """

    dataset: RawDataset
    rows: list[dict[str, Any]]
    places: Mapping[str, str]

    def image(self, case: str) -> bytes:
        """PNG of the grey image. Raises KeyError for an unknown case, DataError for an unreadable file."""
        return _png(read_pixels(self.dataset.image_path(case, self.places[case])).astype(np.uint8))

    def labels(self, case: str) -> bytes:
        """PNG of the labels in the colours of their tissues, clear where there is none; raises as `image`."""
        return _png(coloured(read_pixels(self.dataset.label_path(case, self.places[case]))))


def open_album(dataset: RawDataset, quality: Path | None = None) -> Album:
    """The cases of `dataset`.

    Args:
        quality: folder of `echosynth quality`, whose flags are shown, or None.

    Raises DataError when the dataset or that folder is none.
    """
    cases = dataset.cases()
    drawn = (dataset.path / "manifest.parquet").is_file()
    flags = read_flags(quality, dataset) if quality else {}
    rows: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for row in cases.to_dict("records"):
        case, facts = str(row["case"]), {name: str(row[name]) for name in _SHOWN}
        rows.append({**facts, "kind": "drawn" if drawn else "real", "flags": flags.get(case, [])})
        places[case] = facts["split"]
    return Album(dataset, rows, places)


def read_flags(folder: Path, dataset: RawDataset) -> dict[str, list[str]]:
    """Flags by case of quality.csv: "near copy", "low agreement". Raises DataError when it is missing or of other images."""
    file = folder / "quality.csv"
    if not file.is_file():
        raise DataError(f"{file}: missing; --quality expects the folder that 'echosynth quality' wrote")
    try:
        table = pd.read_csv(file, dtype={"case": str})
    except (ValueError, OSError) as e:
        raise DataError(f"{file}: not a table ({str(e).splitlines()[0]:.100})") from None
    if "case" not in table or not set(table["case"]) <= set(dataset.cases()["case"]):
        raise DataError(f"{file}: names images that are not in {dataset.name}; name the folder of its own 'quality'")
    flags: dict[str, list[str]] = {}
    for column, word in (("copy", "near copy"), ("low_agreement", "low agreement")):
        if column in table:
            for case in table.loc[table[column].astype(str) == "True", "case"]:
                flags.setdefault(str(case), []).append(word)
    return flags


def coloured(labels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Labels (H, W) as RGBA (H, W, 4) uint8: the colours of the report's label maps, clear background."""
    palette = np.zeros((256, 4), np.uint8)
    for number in filter(None, specs.labels().nnunet_labels.values()):  # of a label and of its tissue alike
        palette[number] = (*tissue_colours()[number], _OPACITY)
    return palette[labels.astype(np.uint8)]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", compress_level=1)
    return written.getvalue()
