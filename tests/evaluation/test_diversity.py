"""Diversity: the mean distance of pairs, and which pairs these are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from echo_synth.errors import DataError
from echo_synth.evaluation.dataset_quality import diversity
from echo_synth.evaluation.image_sets import ImageSet


class _Brightness:
    """Distance of two images: how much their brightness differs in the sector that both have; remembers its pairs."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, a: Tensor, b: Tensor, sector: Tensor) -> Tensor:
        mean_a, mean_b = ((x * sector).sum((1, 2, 3)) / sector.sum((1, 2, 3)) for x in (a, b))
        self.seen += [(round(float(x) * 255), round(float(y) * 255)) for x, y in zip(mean_a, mean_b, strict=True)]
        return torch.as_tensor((mean_a - mean_b).abs())


def _images(patients: list[str], views: list[str], levels: list[int]) -> ImageSet:
    pixels = np.zeros((len(levels), 256, 256), np.uint8)
    pixels[:, 64:192, 64:192] = np.asarray(levels, np.uint8)[:, None, None]
    cases = pd.DataFrame({"patient": patients, "view": views, "phase": "ED", "split": "train"})
    return ImageSet(pixels, cases, np.ones((len(levels), 2)))


def test_it_is_the_mean_distance_of_different_patients_in_one_view() -> None:
    images = _images(["a", "b", "a", "b"], ["2CH", "2CH", "4CH", "4CH"], [51, 102, 204, 153])
    distance = _Brightness()
    found = diversity(images, distance, 0)  # type: ignore[arg-type]
    assert found["pairs"] == 4  # each image with one of another patient
    assert found["mean"] == pytest.approx(0.2)
    assert found["std"] == pytest.approx(0, abs=1e-6)
    assert {frozenset(pair) for pair in distance.seen} == {frozenset((51, 102)), frozenset((204, 153))}


def test_equal_images_have_none_and_the_seed_decides_the_pairs() -> None:
    same = _images(["a", "b", "c"], ["2CH"] * 3, [100] * 3)
    assert diversity(same, _Brightness(), 0)["mean"] == pytest.approx(0, abs=1e-7)  # type: ignore[arg-type]
    many = _images([f"p{i}" for i in range(12)], ["2CH"] * 12, [10 * i + 20 for i in range(12)])
    first, again, other = (_Brightness() for _ in range(3))
    for distance, seed in ((first, 0), (again, 0), (other, 1)):
        diversity(many, distance, seed)  # type: ignore[arg-type]
    assert first.seen == again.seen != other.seen


def test_images_without_a_pair_are_refused() -> None:
    with pytest.raises(DataError, match="no two patients in one view and phase; judge more with --count"):
        diversity(_images(["a", "a", "b"], ["2CH", "2CH", "4CH"], [50] * 3), _Brightness(), 0)  # type: ignore[arg-type]
