"""Images of a dataset on one grid, with what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data import nnunet_raw
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.parallel import parallel_map
from echo_synth.progress import track

SIDE = 256  # of the grid on which images are compared


@dataclass(frozen=True)
class ImageSet:
    """Images with their rows of cases.csv.

    Attributes:
        pixels: (N, 256, 256) uint8, 0 outside the sector.
        cases: N rows of cases.csv.
        spacing: mm a pixel of that grid, (N, 2), rows and columns.
    """

    pixels: NDArray[np.uint8]
    cases: pd.DataFrame
    spacing: NDArray[np.float64]

    def split(self, name: str) -> ImageSet:
        """Those of one split."""
        return self.where((self.cases["split"] == name).to_numpy())

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> ImageSet:
        """Those chosen by a mask (N,) or by positions."""
        return ImageSet(self.pixels[chosen], self.cases.iloc[chosen].reset_index(drop=True), self.spacing[chosen])

    @property
    def patients(self) -> NDArray[np.str_]:
        """Patient of each image (N,)."""
        return self.cases["patient"].to_numpy(str)


def read_images(dataset: RawDataset, cases: pd.DataFrame, workers: int | None = None) -> ImageSet:
    """Images of `cases` on the common grid. Raises DataError for an unreadable one."""
    paths = [dataset.image_path(c, s) for c, s in zip(cases["case"], cases["split"], strict=True)]
    # A function of a module that loads no torch: what a process must import before its first image counts.
    work = partial(nnunet_raw.read_grey, size=(SIDE, SIDE))
    pixels = np.stack(list(track(parallel_map(work, paths, workers), len(paths), f"read {dataset.name}", "images")))
    height = cases["spacing_row_mm"] * cases["rows"]
    width = cases["spacing_column_mm"] * cases["columns"]
    return ImageSet(pixels, cases.reset_index(drop=True), np.stack([height, width], 1) / SIDE)


def chosen_cases(dataset: RawDataset, count: int | None) -> pd.DataFrame:
    """`count` cases spread evenly over a dataset; all by default."""
    cases = dataset.cases()
    if count is None or count >= len(cases):
        return cases
    return cases.iloc[np.linspace(0, len(cases) - 1, count).astype(int)]
