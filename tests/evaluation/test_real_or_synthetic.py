"""Real against synthetic: images of one kind are not told apart, smoothed ones are; folds are by patient."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from echo_synth.evaluation.image_sets import ImageSet
from echo_synth.evaluation.real_or_synthetic import told_apart


def _images(patients: list[str], seed: int, smooth: float = 0.0) -> ImageSet:
    """A grainy image (64, 64) of each of `patients`; `smooth` takes the grain away and leaves mean and spread."""
    grain = np.random.default_rng(seed).standard_normal((len(patients), 64, 64))
    if smooth:
        grain = ndimage.gaussian_filter(grain, (0, smooth, smooth))
        grain /= grain.std()
    pixels = np.clip(128 + 40 * grain, 1, 255).astype(np.uint8)
    return ImageSet(pixels, pd.DataFrame({"patient": patients}), np.ones((len(patients), 2)))


def _patients(count: int) -> list[str]:
    return [f"patient{i // 2:04}" for i in range(count)]


def test_images_of_one_kind_are_not_told_apart() -> None:
    found = told_apart(_images(_patients(80), 0), _images(_patients(80), 1), 0)
    assert found is not None
    low, high = found["ci95"]
    assert low < 0.5 < high
    assert found["images"] == 160


def test_images_without_grain_are_told_apart() -> None:
    found = told_apart(_images(_patients(100), 0), _images(_patients(80), 1, smooth=1.5), 0)
    assert found is not None
    assert found["auroc"] > 0.95
    assert found["images"] == 160
    assert found == told_apart(_images(_patients(100), 0), _images(_patients(80), 1, smooth=1.5), 0)


def test_it_judges_patients_that_it_has_not_seen() -> None:
    """Each patient's images carry a pattern of their own, and are all real or all synthetic: what is learnt of them must not help."""
    pattern = np.random.default_rng(2).standard_normal((20, 64, 64))
    sets = []
    for kind in (0, 1):
        images = _images([f"patient{i // 8 + 10 * kind:04}" for i in range(80)], kind)
        own = np.repeat(pattern[10 * kind : 10 * kind + 10], 8, axis=0)
        pixels = np.clip(images.pixels + 80 * own, 1, 255).astype(np.uint8)
        sets.append(ImageSet(pixels, images.cases, images.spacing))
    found = told_apart(sets[0], sets[1], 0)
    assert found is not None
    assert 0.1 < found["auroc"] < 0.9


def test_one_patient_cannot_be_judged() -> None:
    assert told_apart(_images(["a"] * 4, 0), _images(["a"] * 4, 1), 0) is None
