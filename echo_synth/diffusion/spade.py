"""SPADE: normalisation whose scale and shift are computed from the condition map (Park et al. 2019, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-5  # also inside networks whose other normalisations use 1e-6


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm of `channels`, in at most 32 groups of at least 4 (Karras et al. 2022).

    Raises ValueError where `channels` does not divide over that many groups.
    """
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=eps)


@dataclass(frozen=True)
class Modulation:
    """Scale and shift of one normalisation for given condition maps; each tensor (N, C, H, W).

    Attributes:
        scale, shift: γ and β as the convolutions give them, or, when `folded`, the scale and shift to apply
            after the bare normalisation: w (1 + γ) and b (1 + γ) + β with GroupNorm's own w and b.
    """

    scale: Tensor
    shift: Tensor
    folded: bool = False

    @property
    def nbytes(self) -> int:
        """Memory of both, bytes."""
        return self.scale.nbytes + self.shift.nbytes

    def take(self, index: Tensor) -> Modulation:
        """Maps `index` (M,) of this batch; a batch of one map is shared by all without a copy."""
        if len(self.scale) == 1:
            shape = (len(index), -1, -1, -1)
            return Modulation(self.scale.expand(shape), self.shift.expand(shape), self.folded)
        return Modulation(self.scale[index], self.shift[index], self.folded)


class Spade(nn.Module):
    """GroupNorm, then x (1 + γ(m)) + β(m), (N, C, H, W) to the same; γ and β depend only on the condition map m.

    They do not depend on x or σ, so a sampler calls `modulation` once per map instead of once per network evaluation.

    Args:
        channels: of x, (N, C, H, W).
        classes: K of the one-hot label map, (N, K, H', W').
        hidden: channels of the convolution that γ and β share; 128 in the paper.
    """

    def __init__(self, channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, _EPS)
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulation(self, onehot: Tensor, fold: bool = False) -> Modulation:
        """γ and β, each (N, C, H, W), for label maps on the grid of the x that will be normalised.

        Args:
            onehot: (N, K, H, W), dtype of the weights.
            fold: multiply GroupNorm's own scale and shift into the convolutions, which saves one operation per
                evaluation. Only for inference: no gradient reaches the folded parameters once they change.
        """
        hidden = self.mlp_shared(onehot)
        if not fold:
            return Modulation(self.mlp_gamma(hidden), self.mlp_beta(hidden))
        scale, shift = (F.conv2d(hidden, weight, bias, padding=1) for weight, bias in self._folded())
        return Modulation(scale, shift, folded=True)

    def _folded(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weight and bias of the convolutions that give w (1 + γ) and b (1 + γ) + β; multiplied in float32."""
        dtype, (gamma, beta) = self.norm.weight.dtype, (self.mlp_gamma, self.mlp_beta)
        assert gamma.bias is not None
        assert beta.bias is not None
        w, b = self.norm.weight.float(), self.norm.bias.float()
        kernel, gain = gamma.weight.float(), 1 + gamma.bias.float()
        column = (-1, 1, 1, 1)
        yield (w.reshape(column) * kernel).to(dtype), (w * gain).to(dtype)
        yield (b.reshape(column) * kernel + beta.weight.float()).to(dtype), (b * gain + beta.bias.float()).to(dtype)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """x (N, C, H, W) normalised and modulated; `modulation` on the same grid, for N maps or one."""
        if modulation.folded:
            bare = F.group_norm(x, self.norm.num_groups, eps=self.norm.eps)
            return torch.addcmul(modulation.shift, bare, modulation.scale)
        return self.norm(x) * (1 + modulation.scale) + modulation.shift
