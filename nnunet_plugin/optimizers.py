"""The optimisers of the trainers, by their budget; Muon and its rate for the generators' training too."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

import torch

from nnunet_plugin.budgets import Budget


def build_optimizer(parameters: Iterable[torch.nn.Parameter], budget: Budget, device: str) -> torch.optim.Optimizer:
    """A fresh optimiser, Adam or `muon`."""
    if budget.optimizer == "muon":
        return muon(parameters, budget.rate)
    return torch.optim.Adam(parameters, budget.rate, fused=device == "cpu" or None)


def muon(parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024): weight matrices and convolutions move by the orthogonal part of their momentum, by five
    Newton-Schulz iterations in bf16, scaled so that steps are as large as Adam's (Liu et al. 2025); biases and the scales of
    norms move by NAdam."""
    from timm.optim.muon import Muon  # here: it takes a second to import, and predicting needs it not

    return Muon(parameters, lr=rate, momentum=0.95, nesterov=True, betas=(0.9, 0.99))  # type: ignore[no-any-return]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take `rate` for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "adamw_lr" in group:  # of what Muon leaves to NAdam
            group["adamw_lr"] = rate


def check_settings(settings: Set[str], loaded: torch.optim.Optimizer, folder: Path) -> None:
    """Raise RuntimeError where the checkpoint of `folder`, loaded into an optimiser with `settings`, brought those of another kind."""
    if not settings - {"initial_lr"} <= set(loaded.param_groups[0]):
        raise RuntimeError(
            f"{folder}: this training was begun with another optimiser than {type(loaded).__name__}, by an earlier version; "
            "move the folder away to begin anew (by Adam, as before, with the trainer nnUNetTrainerEchoSynth_cpu_adam)"
        )
