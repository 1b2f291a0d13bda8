"""The optimisers of the trainers, by their budget, and their state in nnU-Net's checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from nnunet_plugin.budgets import Budget
from nnunet_plugin.muon import Muon


def build_optimizer(parameters: Iterable[torch.nn.Parameter], budget: Budget, device: str) -> torch.optim.Optimizer:
    """A fresh optimiser, Adam or Muon."""
    if budget.optimizer == "muon":
        return Muon(parameters, budget.rate)
    return torch.optim.Adam(parameters, budget.rate, fused=device == "cpu" or None)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take `rate` for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Loading:
    """Stands in for an optimiser while nnU-Net loads a checkpoint: takes its state, and keeps the optimiser's own settings.

    Args:
        optimizer: a fresh one.
        folder: of the checkpoint.
        finished: of a training that ended, which may be validated alone: then its state may be another optimiser's, and is left
            out. nnU-Net's --c with more epochs trains on from it, with its state.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, folder: Path, finished: bool) -> None:
        self.optimizer, self.folder, self.finished = optimizer, folder, finished

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Raise RuntimeError where `content` is of another kind of optimiser, unless the training ended."""
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        if not set(own[0]) - {"initial_lr"} <= set(content["param_groups"][0]):
            if self.finished:
                return
            raise RuntimeError(
                f"{self.folder}: this training was begun with another optimiser than {type(self.optimizer).__name__}, by an "
                "earlier version; move the folder away to begin anew (by Adam, as before, with the trainer "
                "nnUNetTrainerEchoSynth_cpu_adam)"
            )
        self.optimizer.load_state_dict(content)
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            parameters = group["params"]
            group.clear()
            group.update(settings, params=parameters)
