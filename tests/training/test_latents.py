"""Fields of a diffusion model: kept, made again when damaged, refused where they cannot be latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echo_synth.data.augment import GeometricRanges
from echo_synth.data.nnunet_raw import find
from echo_synth.data.prepared import prepare
from echo_synth.errors import DataError, RunError
from echo_synth.training import latents
from echo_synth.training.latents import FieldRecipe, kept_fields

RECIPE = FieldRecipe(64, "0123456789abcdef", 1, GeometricRanges(), 0, bf16=False)


class _Codec:
    """Encodes every image as one number."""

    channels = 1

    def __init__(self, value: float) -> None:
        self.value = value

    def encode(self, images: torch.Tensor, sector: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 1, 64, 64), self.value)


def _fields(codec: Any, name: str) -> np.ndarray:
    data = prepare(find(501))
    return np.asarray(kept_fields(data, data.rows("val"), codec, RECIPE, name, "cpu").clean)


@pytest.mark.parametrize("value", [1e8, -101.0, float("nan"), float("inf")])
def test_latents_of_a_vae_that_diverged_are_refused(home: Path, value: float) -> None:
    with pytest.raises(RunError, match=r"latents of the Γ-VAE reach .*train it again"):
        _fields(_Codec(value), "wild")
    assert not list((home / "prepared").glob("wild*"))
    assert (_fields(_Codec(-0.5), "tame") == -0.5).all()


def test_damaged_fields_are_made_again(home: Path) -> None:
    before = _fields(_Codec(0.25), "damaged")
    (folder,) = (home / "prepared").glob("damaged_fields64_*")
    for name in ("clean.npy", "tissues.npy", "fields.json"):
        (folder / name).unlink()
        (folder / name).write_bytes(b"foreign")
        assert np.array_equal(_fields(_Codec(0.25), "damaged"), before)


def test_fields_that_another_training_makes_meanwhile_are_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains from them, memory-mapped: they must not be replaced under it."""
    before, look, looks = _fields(_Codec(0.25), "shared"), latents._open, list[bool]()

    def not_at_first(*arguments: Any) -> Any:
        looks.append(True)
        if len(looks) == 1:
            raise DataError("not there yet")
        return look(*arguments)

    monkeypatch.setattr(latents, "_open", not_at_first)
    assert np.array_equal(_fields(_Codec(0.75), "shared"), before)  # not encoded again
    assert len(looks) == 3
