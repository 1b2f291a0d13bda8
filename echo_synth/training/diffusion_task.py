"""What the engine needs to train a diffusion model: clean fields (latents or pixels), maps, loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_synth.diffusion.loss import denoising_loss
from echo_synth.training.streams import normal, sample_indices, uniform

_VAL_POSITION = 1_000_000_000  # noise of validation: positions that training never reaches


@dataclass(frozen=True)
class Fields:
    """Clean training data on the network's grid.

    Attributes:
        clean: (N, R, R) float16 or float32 in [−1, 1], −1 outside the sector.
        tissues: (N, R, R) uint8, ids 0..4.
        views: (N,) uint8.
    """

    clean: NDArray[np.floating]
    tissues: NDArray[np.uint8]
    views: NDArray[np.uint8]


def semantic_classes(tissues: Tensor, views: Tensor, tissue_count: int = 5) -> Tensor:
    """Semantic class = tissue + 5 x view, (N, H, W) int64, of tissues (N, H, W) and views (N,)."""
    return tissues.long() + tissue_count * views.long().reshape(-1, 1, 1)


class DiffusionTask:
    """Batches, loss and validation of a diffusion model."""

    def __init__(self, train: Fields, val: Fields, device: str, seed: int) -> None:
        self.train, self.val, self.device, self.seed = train, val, device, seed

    def load(self, fields: Fields, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor, Tensor]:
        """clean (N, 1, R, R) float32, labels (N, R, R), sector (N, 1, R, R) float32 of some rows."""
        clean = torch.from_numpy(np.ascontiguousarray(fields.clean[rows])).to(self.device).float()[:, None]
        tissues = torch.from_numpy(np.ascontiguousarray(fields.tissues[rows])).to(self.device)
        views = torch.from_numpy(fields.views[rows]).to(self.device)
        return clean, semantic_classes(tissues, views), (tissues > 0).float()[:, None]

    def loss(self, module: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        """Mean denoising loss of one micro-batch."""
        rows = sample_indices(self.seed, positions, len(self.train.clean))
        clean, labels, sector = self.load(self.train, rows)
        noise = normal(self.seed, positions, clean.shape[1:]).to(self.device)
        u = uniform(self.seed, positions).to(self.device)
        return {"loss": denoising_loss(module, clean, labels, sector, u, noise).mean()}  # type: ignore[arg-type]

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """The same loss on validation cases at fixed noise and evenly spread noise levels."""
        count = min(128, len(self.val.clean))
        rows = np.linspace(0, len(self.val.clean) - 1, count).astype(np.intp)
        total = 0.0
        for chunk in np.array_split(np.arange(count), max(1, count // 16)):
            clean, labels, sector = self.load(self.val, rows[chunk])
            noise = normal(0, [_VAL_POSITION + int(i) for i in chunk], clean.shape[1:]).to(self.device)
            # A golden-ratio sequence spreads σ evenly over each chunk and over the whole set.
            u = torch.as_tensor(((chunk + 0.5) * 0.6180339887) % 1, device=self.device)
            total += float(denoising_loss(module, clean, labels, sector, u, noise).sum())  # type: ignore[arg-type]
        return {"loss": total / count}
