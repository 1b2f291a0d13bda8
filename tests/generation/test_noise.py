"""The floor of comparisons: noise in the outlines."""

from __future__ import annotations

import numpy as np

from echo_synth.generation.engine import SamplerSettings
from echo_synth.generation.noise import NoiseTextures


def test_noise_knows_the_outlines_only() -> None:
    tissues = np.zeros((2, 64, 64), np.uint8)
    tissues[:, 10:50, 10:50], tissues[:, 20:40, 20:40] = 4, 1
    how = SamplerSettings(1, "euler", "edm")
    images = NoiseTextures().draw(tissues, np.zeros(2, np.uint8), 3, [5, 6], how)
    assert np.array_equal(images > 0, tissues > 0)
    assert np.array_equal(images[1], NoiseTextures().draw(tissues[1:], np.zeros(1, np.uint8), 3, [6], how)[0])
    assert not np.array_equal(images[0], images[1])
