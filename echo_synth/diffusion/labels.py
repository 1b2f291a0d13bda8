"""Semantic class maps: the condition of every diffusion model.

A frame is a kind of image, of which CAMUS has four per patient: view + 2 x phase, so 0 is 2CH ED,
1 is 4CH ED, 2 is 2CH ES, 3 is 4CH ES. The paper's class is tissue + 5 x view; with the phase as a
condition it is tissue + 5 x frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TISSUES = 5
FRAMES = 4
_DIGIT = 12  # bits


def semantic_classes(tissues: Tensor, frames: Tensor, classes: int = 10) -> Tensor:
    """Semantic class (N, H, W) int64 of tissues (N, H, W) and frames (N,); 10 classes distinguish the view, 20 also the phase."""
    return tissues.long() + TISSUES * _block(frames, classes).reshape(-1, 1, 1)


def tissue_shares(tissues: Tensor, resolution: int) -> Tensor:
    """Share of each cell of an R x R grid that each tissue covers, (N, 5, R, R) float32 in steps of 1/255.

    Args:
        tissues: (N, H, W) ids; H and W need not be multiples of R.

    Raises ValueError for an id that is no tissue.
    """
    if int(tissues.max()) >= TISSUES:  # its digit would be another's
        raise ValueError(f"tissue {int(tissues.max())}: expected ids below {TISSUES}")
    count, rows, columns = tissues.shape
    high, wide = rows // resolution, columns // resolution
    if (high * resolution, wide * resolution) != (rows, columns) or high * wide >= 1 << _DIGIT:
        onehot = F.one_hot(tissues.long(), TISSUES).permute(0, 3, 1, 2).float()
        return (F.adaptive_avg_pool2d(onehot, resolution) * 255).round() / 255
    # All tissues of a cell are counted in one sum: each has a digit of its own. Seven times as fast on a CPU.
    ones = torch.ones((), dtype=torch.int64, device=tissues.device) << (tissues.long() * _DIGIT)
    cells = ones.view(count, resolution, high, resolution, wide).sum((2, 4))
    counts = torch.stack([cells >> (_DIGIT * k) & ((1 << _DIGIT) - 1) for k in range(TISSUES)], dim=1)
    return (counts.float() / (high * wide) * 255).round() / 255


def semantic_shares(shares: Tensor, frames: Tensor, classes: int = 10) -> Tensor:
    """Shares (N, 5, R, R) of tissues as shares of semantic classes, (N, classes, R, R); see `semantic_classes`."""
    n, _, rows, columns = shares.shape
    placed = shares.new_zeros(n, classes // TISSUES, TISSUES, rows, columns)
    placed[torch.arange(n, device=shares.device), _block(frames, classes)] = shares
    return placed.reshape(n, classes, rows, columns)


def _block(frames: Tensor, classes: int) -> Tensor:
    """Which block of five classes a frame has: 0 or 1 by view, or 0 to 3 by view and phase."""
    return frames.long() % (classes // TISSUES)
