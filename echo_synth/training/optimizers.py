"""The optimisers that networks train with, by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from echo_synth.specs import TrainingSpec

_AFTER_SGD = 2.0e-4
_MUON_TO_ADAMW = 4.0  # the rates that were best for EDM-L64 tiny: 4e-3 and 1e-3


def build_optimizer(parameters: Iterable[nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    """A fresh optimiser of `parameters`.

    muon: weight matrices and convolutions move by the orthogonal part of their momentum (Jordan et al. 2024, by five
    Newton-Schulz iterations in bf16), scaled so that their steps are as large as Adam's (Liu et al. 2025); biases and the
    scales of norms move by NAdamW.
    """
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, spec.lr, momentum=0.9, nesterov=True)
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, spec.lr)
    if spec.optimizer == "muon":
        # Here: timm takes more than a second to import.
        from timm.optim.muon import Muon

        return Muon(parameters, lr=spec.lr, momentum=0.95, nesterov=True, betas=(0.9, 0.99))  # type: ignore[no-any-return]
    return torch.optim.AdamW(parameters, spec.lr)


def adamw_rate(spec: TrainingSpec) -> float:
    """A learning rate of AdamW for a short phase after, or beside, a training by `spec`."""
    if spec.optimizer == "sgd":
        return _AFTER_SGD
    return spec.lr / _MUON_TO_ADAMW if spec.optimizer == "muon" else spec.lr


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take `rate` for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "adamw_lr" in group:  # of what Muon leaves to NAdamW
            group["adamw_lr"] = rate
