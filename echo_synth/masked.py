"""Means over the ultrasound sector: losses on images, latents and fields leave the background out through them."""

from __future__ import annotations

from torch import Tensor


def sector_mean(values: Tensor, sector: Tensor) -> Tensor:
    """Mean of `values` over channels and the pixels where `sector` is 1, for each image.

    Per image, so that the loss of a batch does not depend on how it is split over processes.
    Pixels outside have exactly zero gradient; an empty sector gives 0.

    Args:
        values: (N, C, H, W), any float dtype.
        sector: (N, 1, H, W), 0 or 1, or bool.

    Returns:
        (N,) float32.
    """
    mask = sector.float()
    return (values.float() * mask).sum((1, 2, 3)) / (values.shape[1] * mask.sum((1, 2, 3))).clamp_min(1)
