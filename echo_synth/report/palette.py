"""Colours: one code for tissues, in every figure, and three for everything else, safe for colour-blind readers."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from echo_synth import specs

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def tissue_colours() -> NDArray[np.uint8]:
    """RGB (tissues, 3) uint8 by tissue id, as data_specs/labels.yaml states them and label maps show them."""
    return np.asarray([tissue.colour for tissue in specs.labels().tissues.values()], np.uint8)


def tissue_colour(tissue: int) -> str:
    """The colour of one tissue id as #rrggbb."""
    return str(to_hex(tissue_colours()[tissue] / 255))


def tissue_image(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue ids (H, W) as RGB (H, W, 3) uint8."""
    return np.asarray(tissue_colours()[tissues])
