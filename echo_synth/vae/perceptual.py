"""Perceptual distance: unit-normalised features of a trained network, compared inside the sector.

The recipe is LPIPS's (Zhang et al. 2018): at several depths, features are normalised over
channels, their squared differences summed (or weighted, where LPIPS's own weights exist),
averaged over the sector and added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-10
Features = Callable[[Tensor], Sequence[Tensor]]


class FeatureDistance(nn.Module):
    """Distance of two grey image batches, per image.

    Args:
        features: maps (N, 3, H, W) to a list of (N, C_k, H_k, W_k).
        mean, std: of the three channels of what `features` was trained on, images in [0, 1].
        weights: for each depth, non-negative weights (C_k,) of the channels; None weighs all 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.depths = len(weights) if weights is not None else 0
        for k, w in enumerate(weights or []):
            self.register_buffer(f"weight{k}", w.reshape(1, -1, 1, 1))

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stays in evaluation mode: batch statistics of the feature network never change."""
        return super().train(False)

    def _normalised(self, images: Tensor) -> Sequence[Tensor]:
        colour = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        return [f / (f.float().square().sum(1, keepdim=True) + _EPS).sqrt() for f in self.features(colour)]

    def forward(self, images: Tensor, others: Tensor, sector: Tensor) -> Tensor:
        """Distances (N,), float32, ≥ 0; 0 for equal batches.

        Args:
            images, others: (N, 1, H, W), nominally in [0, 1], zero outside the sector.
            sector: (N, 1, H, W), 0 or 1. Differences of features that lie outside do not count.
        """
        total = torch.zeros(len(images), device=images.device)
        with torch.no_grad():
            targets = self._normalised(others)
        for k, (f, g) in enumerate(zip(self._normalised(images), targets, strict=True)):
            squared = (f.float() - g.float()).square()
            if self.depths:
                squared = squared * getattr(self, f"weight{k}")
            mask = F.interpolate(sector, size=f.shape[-2:], mode="area")
            total = total + (squared.sum(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(_EPS)
        return total
