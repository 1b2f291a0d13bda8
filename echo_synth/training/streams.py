"""Randomness by position: sample n of a training run depends on (seed, n) only.

So a resumed run continues with the same data and noise, and the split over processes or
batches does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Stream(IntEnum):
    """What a sample's random numbers are for. The values are part of every seed: they never change."""

    AUGMENTATION = 0  # of a training image
    NOISE = 1  # a draw of the VAE's latent; the noise that a denoiser removes
    NOISE_LEVEL = 2
    FIELD_AUGMENTATION = 3  # of an image whose field is kept
    STEP = 9  # the global generator during one micro-batch: dropout


def sample_indices(seed: int, positions: Sequence[int], size: int) -> NDArray[np.intp]:
    """Dataset rows of the given positions in an endless stream of shuffled epochs over `size` rows."""
    epochs = {p // size for p in positions}
    orders = {e: np.random.default_rng([seed, e, 0]).permutation(size) for e in epochs}
    return np.asarray([orders[p // size][p % size] for p in positions])


def generator(seed: int, position: int, stream: Stream, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator of one sample. `stream` separates the uses of one sample."""
    return torch.Generator(device).manual_seed(position_seed(seed, position, stream))


def position_seed(seed: int, position: int, stream: Stream = Stream.STEP) -> int:
    """Seed of one sample's generator, 63 bits."""
    word = np.random.SeedSequence([seed, position, stream]).generate_state(2)
    return int(word[0]) << 31 ^ int(word[1])


def normal(seed: int, positions: Sequence[int], shape: Sequence[int], stream: Stream = Stream.NOISE) -> Tensor:
    """Unit normal noise (len(positions), *shape), float32, on the CPU."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, p, stream)) for p in positions])


def uniform(seed: int, positions: Sequence[int], stream: Stream = Stream.NOISE_LEVEL) -> Tensor:
    """One uniform draw in (0, 1) for each position, (N,), float32."""
    draws = torch.stack([torch.rand((), generator=generator(seed, p, stream), dtype=torch.float64) for p in positions])
    return draws.clamp(1e-6, 1 - 1e-6).float()


def spread(seed: int, positions: Sequence[int], size: int) -> Tensor:
    """As `uniform`, but evenly over every `size` samples in a row: one in each of `size` equal strips, in random order.

    Averages over a batch of `size` then vary less, and each draw by itself stays uniform. Sample n
    depends on (seed, n) alone, so processes and micro-batches may share a batch.
    """
    groups = sorted({p // size for p in positions})
    orders = {g: np.random.default_rng([seed, g, Stream.NOISE_LEVEL, size]).permutation(size) for g in groups}
    strips = torch.as_tensor([int(orders[p // size][p % size]) for p in positions], dtype=torch.float64)
    within = uniform(seed, positions).double()
    return ((strips + within) / size).clamp(1e-6, 1 - 1e-6).float()
