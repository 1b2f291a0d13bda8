"""Where arrays go: to the CPU as they are, to a GPU through pinned memory; and what a GPU has left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echo_synth.device import memory_left, resolve_precision, to_device


@pytest.mark.parametrize("values", [np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2], torch.arange(3.0)])
def test_values_arrive_as_they_are(values: np.ndarray | torch.Tensor) -> None:
    there = to_device(values, "cpu")
    assert np.array_equal(np.asarray(there), np.asarray(values))
    assert there.numpy().dtype == np.asarray(values).dtype


def test_a_gpu_is_reached_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU that is not there: what would be asked of it, in order."""
    asked: list[object] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *where, **how: asked.append((where, how)) or self)
    to_device(np.zeros(3, np.float32), "cuda:1")
    assert asked == ["pinned", (("cuda:1",), {"non_blocking": True})]


def test_what_a_gpu_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps for itself and does not use counts as free."""
    assert memory_left("cpu") is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 200)
    assert memory_left("cuda") == 1100


@pytest.mark.parametrize(("units", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_asks_a_gpu_for_bf16_units_not_for_their_emulation(
    units: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or units)
    assert resolve_precision("auto", "cuda:0") == expected
