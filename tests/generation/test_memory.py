"""A GPU whose memory is too small: batches are halved, said, and kept small; no image is lost or drawn twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from echo_synth import specs
from echo_synth.generation.engine import SamplerSettings, default_settings
from echo_synth.generation.request import Generation, plan_from
from echo_synth.generation.sources import SampledImages, choose_model


class _Small:
    """A generator of images that hold their number, on a device with room for `room` of them."""

    device, compiled = "cpu", False

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, list[int]()

    def draw(
        self,
        tissues: np.ndarray,
        frames: np.ndarray,
        seed: int,
        indices: Sequence[int],
        settings: SamplerSettings,
        tick: Callable[[], None],
    ) -> np.ndarray:
        assert len(tissues) == len(frames) == len(indices)
        assert tissues[:, 0, 0].tolist() == list(indices)
        self.asked.append(len(indices))
        if len(indices) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        tick()
        return np.stack([np.full((4, 4), i, np.uint8) for i in indices])


def _draw(source: SampledImages, indices: Sequence[int]) -> tuple[list[int], int]:
    ticks: list[None] = []
    tissues = np.stack([np.full((4, 4), i, np.uint8) for i in indices])
    images = source.draw(tissues, np.zeros(len(indices), np.uint8), 0, indices, lambda: ticks.append(None))
    return images[:, 0, 0].tolist(), len(ticks)


@pytest.mark.parametrize("room", [8, 7, 3, 1])
def test_batches_are_halved_until_they_fit(room: int) -> None:
    said: list[str] = []
    generator = _Small(room)
    source = SampledImages(generator, SimpleNamespace(nfe=1), "fp32", said.append)  # type: ignore[arg-type]
    fitting = {8: 8, 7: 4, 3: 2, 1: 1}[room]
    for first in (0, 8):
        assert _draw(source, range(first, first + 8)) == (list(range(first, first + 8)), 1)
    assert _draw(source, [16, 17, 18])[0] == [16, 17, 18]
    assert [n for n in generator.asked if n > room] == [n for n in (8, 4, 2) if n > room]  # each size fails once
    assert max(n for n in generator.asked if n <= room) == min(fitting, 8)
    assert len(said) == sum(n > room for n in (8, 4, 2))
    assert all(f"--batch {fitting}" in s for s in said[-1:])


def test_one_image_that_does_not_fit_is_an_error() -> None:
    source = SampledImages(_Small(0), SimpleNamespace(nfe=1), "fp32")  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        _draw(source, range(4))


def test_a_gpu_keeps_half_of_what_is_free_for_modulations(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    model = choose_model("edm-l64", specs.root() / "bundled" / "edm-l64", None, "cpu", "fp32")
    plan = plan_from(specs.root() / "bundled" / "maps", 1, 0)
    for free, kept, words in ((None, 1 << 30, 0), (4 << 30, 1 << 30, 0), (8 << 20, 4 << 20, 1)):
        monkeypatch.setattr("echo_synth.generation.engine.memory_left", lambda _, free=free: free)
        work = Generation(model, default_settings("edm", 1, "euler"), plan, 1, modulation_bytes=1 << 30)
        assert work.source(said.append).generator.modulation_bytes == kept
        assert len(said) == words
    assert "at most 4 MiB are kept" in said[0]
