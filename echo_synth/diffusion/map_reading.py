"""How far a denoised field shows the map that it was asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.masked import sector_mean


def reading_loss(reader: nn.Module, fields: Tensor, tissues: Tensor, sector: Tensor) -> Tensor:
    """Cross-entropy, in nats, of the tissues that `reader` sees in `fields` against those of the map; (N,) float32.

    The least that it can be, the entropy of mixed cells, is taken off: 0 is a map that is read exactly.

    Args:
        fields: (N, C, R, R) in [−1, 1].
        tissues: (N, 5, R, R), shares of tissues in each cell.
        sector: (N, 1, R, R), 0 or 1.
    """
    logs = F.log_softmax(reader(fields).float(), dim=1)
    cross = -(tissues * logs).sum(1, keepdim=True)
    entropy = -torch.special.xlogy(tissues, tissues).sum(1, keepdim=True)
    return sector_mean(cross - entropy, sector)
