"""Power-function exponential moving average of weights (Karras et al. 2024, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def gamma_of_std(std: float) -> float:
    """Exponent γ of the profile t^γ whose relative width is `std` (eq. 123), by its cubic equation."""
    roots = np.roots([1.0, 7.0, 16.0 - std**-2, 12.0 - std**-2])
    return float(roots.real.max())


class PowerEma:
    """Averages parameters with weight t^γ: recent ones count most, over a fixed share of training.

    Args:
        parameters: the live parameters; the average starts as a copy.
        std: width relative to training time, e.g. 0.05; 0 keeps a plain copy of the latest weights.
    """

    def __init__(self, parameters: Iterable[Tensor], std: float) -> None:
        self.std = std
        self.gamma = gamma_of_std(std) if std > 0 else 0.0
        self.average = [p.detach().float().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        """Fold in the weights after optimiser step number `step`, from 1 on."""
        beta = (1 - 1 / step) ** (self.gamma + 1) if self.std > 0 else 0.0
        live = [p.detach().float() for p in parameters]
        torch._foreach_lerp_(self.average, live, 1 - beta)

    @torch.no_grad()
    def swap(self, parameters: Iterable[Tensor]) -> None:
        """Exchange the average with the live weights; call twice to validate with the average."""
        for mean, live in zip(self.average, parameters, strict=True):
            held = live.detach().clone()
            live.copy_(mean)
            mean.copy_(held)
