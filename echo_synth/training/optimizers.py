"""The optimisers that networks train with, by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from echo_synth.specs import TrainingSpec
from nnunet_plugin.muon import Muon

_AFTER_SGD = 2.0e-4
_MUON_TO_ADAMW = 4.0  # of EDM-L64 tiny: 4e-3, before it was by Muon 1e-3


def build_optimizer(parameters: Iterable[nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    """A fresh optimiser of `parameters`."""
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, spec.lr, momentum=0.9, nesterov=True)
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, spec.lr)
    if spec.optimizer == "muon":
        return Muon(parameters, spec.lr)
    return torch.optim.AdamW(parameters, spec.lr)


def adamw_rate(spec: TrainingSpec) -> float:
    """A learning rate of AdamW for a short phase after, or beside, a training by `spec`."""
    if spec.optimizer == "sgd":
        return _AFTER_SGD
    return spec.lr / _MUON_TO_ADAMW if spec.optimizer == "muon" else spec.lr
