"""Self-attention of the Γ-VAE: MONAI's block."""

from __future__ import annotations

import torch
from monai.networks.blocks import SpatialAttentionBlock
from torch import Tensor


class Attention(SpatialAttentionBlock):
    """MONAI's self-attention over all pixels, in the memory layout of its input. (N, C, H, W), same shape.

    MONAI hands back a permuted view; on a CPU the backward pass of every GroupNorm after it
    would then take thirty times as long.

    Args:
        channels: C.
        groups, eps: of the GroupNorm before it.
        projection: whether it ends in a linear layer.
    """

    def __init__(self, channels: int, groups: int, eps: float, projection: bool) -> None:
        # The flag picks scaled_dot_product_attention: memory linear in the number of pixels.
        super().__init__(
            2, channels, norm_num_groups=groups, norm_eps=eps, use_flash_attention=True, include_fc=projection
        )

    def forward(self, x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        y: Tensor = super().forward(x)
        return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
