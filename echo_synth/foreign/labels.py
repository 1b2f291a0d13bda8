"""What the pixel values of foreign masks mean, and how that is recognised: by the heart that they must show.

Three numberings are in use. CAMUS: 0 background, 1 cavity, 2 myocardium, 3 atrium. "sector", of the scripts of Echo from
Noise and EDMLX: 0 outside the sector, 1 cavity, 2 other tissue, 3 myocardium, 4 atrium. "tissues", ours: 0 outside, 1 to 3 as
CAMUS, 4 other tissue. The last two count on from 5 for the other view. Each may be stored as it is, or stretched to
grey levels that can be seen: by 255/10 or 255/5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from echo_synth.data.png import read_ids_png
from echo_synth.data.tissues import OTHER_TISSUE
from echo_synth.errors import DataError

NUMBERINGS: Mapping[str, Mapping[int, int]] = {
    "camus": {0: 0, 1: 1, 2: 2, 3: 3},
    "sector": {0: 0, 1: 1, 2: OTHER_TISSUE, 3: 2, 4: 3},
    "tissues": {0: 0, 1: 1, 2: 2, 3: 3, 4: OTHER_TISSUE},
}
_VIEW_STEP = 5
_STRETCHES = {"": 1.0, ", stretched by 255/10": 25.5, ", stretched by 255/5": 51.0}
_LEAST_RIM = 0.5  # of the cavity's rim that is myocardium; in CAMUS it is about 0.8, the valve is the rest
_SAMPLE = 40  # masks that are looked at to recognise
_CAVITY, _MYOCARDIUM = 1, 2


@dataclass(frozen=True)
class Labels:
    """Tissue ids 0..4 by pixel value.

    Attributes:
        name: in words, for settings and card.
        tissues: by pixel value; 0 is outside the sector, or unknown background without `knows_sector`.
        second: pixel values that stand for the other view.
    """

    name: str
    tissues: Mapping[int, int]
    second: frozenset[int] = frozenset()

    @property
    def knows_sector(self) -> bool:
        """Whether masks tell where the ultrasound sector is."""
        return OTHER_TISSUE in self.tissues.values()

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Tissue ids (H, W) uint8 of one mask. Raises DataError for a value that has no meaning, or an empty mask."""
        values = read_ids_png(path)
        unknown = sorted({int(v) for v in np.unique(values)} - set(self.tissues))
        if unknown:
            raise DataError(
                f"{path}: value {unknown[0]} found, expected {sorted(self.tissues)} ({self.name}); see --labels"
            )
        halves = {v in self.second for v in map(int, np.unique(values)) if v} if self.second else set()
        if len(halves) > 1:
            raise DataError(
                f"{path}: mixes the numbers of both views; expected those of one ({self.name}); see --labels"
            )
        ids = self.decode(values)
        if not np.isin(ids, (1, 2, 3)).any():
            raise DataError(f"{path}: the mask is empty (no cavity, myocardium or atrium)")
        return ids

    def decode(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Tissue ids of pixel values (H, W)."""
        table = np.zeros(256, np.uint8)
        table[list(self.tissues)] = list(self.tissues.values())
        return table[values]


def parse_labels(text: str) -> Labels:
    """A mapping such as "0=0,85=1,170=2,255=3" from pixel values to tissue ids. Raises DataError that names --labels."""
    try:
        pairs = [(int(value), int(tissue)) for value, _, tissue in (part.partition("=") for part in text.split(","))]
    except ValueError:
        pairs = []
    tissues = dict(pairs)
    right = all(0 <= v <= 255 and 0 <= t <= OTHER_TISSUE for v, t in pairs)
    if not pairs or not right or len(tissues) < len(pairs):
        raise DataError(
            f"--labels {text:.80}: expected auto, {', '.join(NUMBERINGS)}, or VALUE=TISSUE,… with values 0 to 255 and tissues "
            "0 outside, 1 cavity, 2 myocardium, 3 atrium, 4 other tissue in the sector"
        )
    return Labels(text, tissues)


def choose_labels(asked: str, masks: Sequence[Path]) -> Labels:
    """Labels as `asked` (auto, the name of a numbering, or a mapping), stretches recognised from some of `masks`.

    Raises DataError when nothing fits, or what fits shows no heart.
    """
    if asked != "auto" and asked not in NUMBERINGS:
        return parse_labels(asked)
    some = [masks[i] for i in np.unique(np.linspace(0, len(masks) - 1, _SAMPLE).astype(int))]
    values = [read_ids_png(path) for path in some]
    _refuse_wide_numbers(some, values)
    found = sorted({int(v) for image in values for v in np.unique(image)})
    names = NUMBERINGS if asked == "auto" else {asked: NUMBERINGS[asked]}
    fitting = [labels for n in names for labels in _stretched(n) if _fits(labels, found)]
    scored = sorted(
        ((_rim(labels, values), labels.name, labels) for labels in fitting), reverse=True, key=lambda s: s[:2]
    )
    if not scored or scored[0][0] < _LEAST_RIM:
        share = f"; at best {scored[0][0]:.0%} of the cavity's rim is myocardium" if scored else ""
        raise DataError(
            f"{some[0]}: the masks hold values {found[:20]}, in which no heart is recognised{share}; say what they mean with "
            "--labels VALUE=TISSUE,…"
        )
    return scored[0][2]


def _stretched(name: str) -> list[Labels]:
    """A numbering in all the ways in which it is stored."""
    base = NUMBERINGS[name]
    both = {**base, **{v + _VIEW_STEP: t for v, t in base.items()}} if name != "camus" else dict(base)
    result = []
    for words, factor in _STRETCHES.items():
        tissues: dict[int, int] = {}
        second: set[int] = set()
        for value, tissue in both.items():
            if value * factor > 255.5:
                continue
            # Writers round or cut.
            stored = {int(value * factor), min(255, round(value * factor))}
            tissues |= dict.fromkeys(stored, tissue)
            if value >= _VIEW_STEP:
                second |= stored
        result.append(Labels(name + words, tissues, frozenset(second)))
    return result


def _fits(labels: Labels, found: Sequence[int]) -> bool:
    """Whether every value has a meaning, and the sector, where these labels know one, is there."""
    met = {labels.tissues[v] for v in found if v in labels.tissues}
    return (
        set(found) <= set(labels.tissues)
        and {_CAVITY, _MYOCARDIUM} <= met
        and (not labels.knows_sector or OTHER_TISSUE in met)
    )


def _rim(labels: Labels, values: Sequence[NDArray[np.uint8]]) -> float:
    """Share of the cavities' rim that is myocardium, over all masks."""
    myocardium = total = 0
    for image in values:
        ids = labels.decode(image)
        cavity = ids == _CAVITY
        rim = ndimage.binary_dilation(cavity) & ~cavity
        myocardium += int((ids[rim] == _MYOCARDIUM).sum())
        total += int(rim.sum())
    return myocardium / total if total else 0.0


def _refuse_wide_numbers(paths: Sequence[Path], values: Sequence[NDArray[np.uint8]]) -> None:
    """EDMLX's script writes the bytes of 64-bit numbers as pixels: ids in every eighth column, and an eighth of the rows."""
    filled = [(p, v) for p, v in zip(paths, values, strict=True) if v.any()]
    if filled and all(v.shape[1] % 8 == 0 and not np.delete(v, np.s_[::8], axis=1).any() for _, v in filled):
        raise DataError(
            f"{filled[0][0]}: holds numbers in every eighth column only: 64-bit numbers that were written as 8-bit ones, most "
            "of the mask is lost; use the folder visible_labels of the same program (--masks visible_labels)"
        )
