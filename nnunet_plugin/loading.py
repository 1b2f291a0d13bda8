"""Batches of whole cases in an order that a seed repeats, read in the background.

nnU-Net's own loaders hand over batches in the order in which worker processes happen to finish.
Here batch number i is a function of the seed and i alone: a resumed training draws what an unbroken
one does, and one thread is enough, because augmentation works on the batch (`augmentation.augment`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypedDict

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor

_AHEAD = 2  # batches read before they are asked for


class Batch(TypedDict):
    """One batch: images (N, 1, H, W) float32, labels (N, 1, H, W) int16 without negative values, names of the cases."""

    data: Tensor
    target: Tensor
    keys: list[str]


class CaseLoader(Iterator[Batch]):
    """Endless batches of preprocessed cases, padded with 0 to `patch`, all cases once before any comes again.

    Args:
        dataset: nnU-Net's dataset of preprocessed cases; `identifiers` may name a case more than once.
        batch: cases a batch.
        patch: (rows, columns) of what the network sees; of larger images a random window.
        seed: any whole number.
    """

    def __init__(self, dataset: Any, batch: int, patch: Sequence[int], seed: int) -> None:
        self.dataset, self.size, self.patch, self.seed = dataset, batch, tuple(patch), seed
        self.keys: list[str] = list(dataset.identifiers)
        self._next = 0
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[int, Future[Batch]] = {}

    def go_to(self, number: int) -> None:
        """Continue with batch `number`."""
        self._next = number
        self._waiting = {n: f for n, f in self._waiting.items() if n >= number}

    def __next__(self) -> Batch:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="cases")
        for number in range(self._next, self._next + _AHEAD + 1):
            if number not in self._waiting:
                self._waiting[number] = self._pool.submit(self.batch, number)
        self._next += 1
        return self._waiting.pop(self._next - 1).result()

    def close(self) -> None:
        """Stop reading."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool, self._waiting = None, {}

    def batch(self, number: int) -> Batch:
        """Batch `number` of the endless sequence."""
        rng = np.random.default_rng([self.seed % 2**63, number])
        keys = self.keys_of(number)
        cases = [self._window(key, rng) for key in keys]
        images = torch.from_numpy(np.stack([image for image, _ in cases]))
        labels = torch.from_numpy(np.stack([label for _, label in cases]))
        return {"data": images, "target": labels, "keys": keys}

    def keys_of(self, number: int) -> list[str]:
        """Names of the cases in batch `number`."""
        count = len(self.keys)
        positions = range(number * self.size, (number + 1) * self.size)
        passes = {p // count for p in positions}
        order = {p: np.random.default_rng([self.seed % 2**63, p, 1]).permutation(count) for p in passes}
        return [self.keys[order[p // count][p % count]] for p in positions]

    def _window(self, key: str, rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Image (1, H, W) float32 and label (1, H, W) int16 of one case on the patch."""
        data, label, _, _ = self.dataset.load_case(key)
        starts = [_start(size, patch, rng) for size, patch in zip(data.shape[2:], self.patch, strict=True)]
        box = [[0, 1], *([start, start + patch] for start, patch in zip(starts, self.patch, strict=True))]
        image = crop_and_pad_nd(data, box, 0)[:, 0]
        classes = crop_and_pad_nd(label, box, 0)[:, 0]
        return np.asarray(image, np.float32), np.maximum(np.asarray(classes, np.int16), 0)  # −1: outside the sector


def _start(size: int, patch: int, rng: np.random.Generator) -> int:
    """First row or column of the window: the image centred as nnU-Net's prediction does it, or any part of a larger one."""
    return int(rng.integers(0, size - patch + 1)) if size > patch else -((patch - size) // 2)
