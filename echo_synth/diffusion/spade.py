"""SPADE: normalisation whose scale and shift are drawn from the label map (Park et al. 2019, eq. 1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

Modulation = tuple[Tensor, Tensor]
_EPS = 1e-5  # also inside networks whose other normalisations use 1e-6


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with at most 32 groups of at least 4 channels (Karras 2022)."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=eps)


class Spade(nn.Module):
    """GroupNorm, then x (1 + γ(m)) + β(m); γ and β are functions of the label map m alone.

    Because they do not depend on x or σ, `modulation` is a call of its own: a sampler calls it
    once per map instead of once per network evaluation.

    Args:
        channels: of x, (N, C, H, W).
        classes: of the one-hot label map, (N, K, H', W').
        hidden: channels of the shared convolution; 128 in the paper.
    """

    def __init__(self, channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, _EPS)
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulation(self, onehot: Tensor, size: tuple[int, int]) -> Modulation:
        """γ and β, each (N, C, *size), for label maps resized to `size` by nearest neighbour."""
        if onehot.shape[-2:] != size:
            onehot = F.interpolate(onehot, size=size, mode="nearest")
        hidden = self.mlp_shared(onehot)
        return self.mlp_gamma(hidden), self.mlp_beta(hidden)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        gamma, beta = modulation
        return self.norm(x) * (1 + gamma) + beta
