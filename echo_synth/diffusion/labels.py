"""Semantic classes: what conditions every diffusion model."""

from __future__ import annotations

from torch import Tensor


def semantic_classes(tissues: Tensor, views: Tensor, tissue_count: int = 5) -> Tensor:
    """Semantic class = tissue + 5 x view, (N, H, W) int64, of tissues (N, H, W) and views (N,)."""
    return tissues.long() + tissue_count * views.long().reshape(-1, 1, 1)
