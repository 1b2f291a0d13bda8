"""Means over the ultrasound sector, the one place where background is left out of a loss."""

from __future__ import annotations

from torch import Tensor


def sector_mean(values: Tensor, sector: Tensor) -> Tensor:
    """Mean of `values` over the pixels where `sector` is 1, for each image: (N, 1, H, W) to (N,), float32.

    Per image, so that the loss of a batch does not depend on how it is split over processes.
    Pixels outside have exactly zero gradient; an empty sector gives 0.
    """
    mask = sector.float()
    return (values.float() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1)
