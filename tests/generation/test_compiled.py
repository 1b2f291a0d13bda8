"""Drawing through torch.compile on a CPU: the same numbers, one size of batch, a compiler that may be missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from echo_synth.errors import RunError
from echo_synth.generation.compiled import compile_parts
from echo_synth.generation.engine import SamplerSettings
from echo_synth.generation.sources import SampledImages


@pytest.mark.slow
def test_a_compiled_part_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1))
    x = torch.randn(2, 4, 16, 16)
    with torch.inference_mode():
        plain = part(x)
        compile_parts([part], "cpu")
        compiled = part(x)
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)
    assert not torch.equal(compiled, plain)  # it is other code that ran


def test_the_last_batch_is_filled_up_or_it_would_be_compiled_again() -> None:
    asked: list[tuple[int, list[int]]] = []

    def draw(tissues: np.ndarray, frames: np.ndarray, seed: int, indices: Any, *_: object) -> np.ndarray:
        asked.append((len(tissues), list(indices)))
        return np.stack([np.full((4, 4), i) for i in indices])

    generator: Any = SimpleNamespace(compiled=True, draw=draw, device="cpu")
    source = SampledImages(generator, SamplerSettings(2, "euler", "edm"), "fp32")
    for indices in (range(3), range(3, 5)):
        maps = np.zeros((len(indices), 4, 4), np.uint8), np.zeros(len(indices), np.uint8)
        drawn = source.draw(*maps, 0, indices, lambda: None)
        assert [int(image[0, 0]) for image in drawn] == list(indices)
    assert asked == [(3, [0, 1, 2]), (3, [3, 4, 4])]
    asked.clear()
    resumed = SampledImages(
        generator, SamplerSettings(2, "euler", "edm"), "fp32", whole=3
    )  # the last batch is all that is left
    resumed.draw(np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.uint8), 0, range(3, 5), lambda: None)
    assert asked == [(3, [3, 4, 4])]


def test_without_a_compiler_it_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RunError, match=r"--compile on a CPU needs a C\+\+ compiler"):
        compile_parts([nn.Identity()], "cpu")
