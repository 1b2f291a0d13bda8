"""What a resumed training needs: one safetensors file with JSON metadata, written atomically, no pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echo_synth.runs.tensors import load_tensors, save_tensors
from echo_synth.training.ema import PowerEma
from echo_synth.training.posthoc import Snapshots


@dataclass
class TrainingState:
    """Network, optimiser, averages and how far they are.

    Attributes:
        module: the network.
        optimizer: of its parameters.
        ema: average of its parameters.
        snapshots: the averages from which others are made afterwards, or None.
        scaler: of fp16's loss, or None.
        step: optimiser steps that are done.
        validated_step: the step of the last validation, -1 before the first.
        best: numbers of the best validation, and "images", how many were seen then; empty before the first.
        images, batch: length of the run and images a step.
        first_images: length that the run started with; the warm-up belongs to it when a run is lengthened.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: PowerEma
    images: int
    batch: int
    snapshots: Snapshots | None = None
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    validated_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    first_images: int = 0

    def __post_init__(self) -> None:
        self.first_images = self.first_images or self.images

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: model.*, ema.*, optimizer.*, track*.*; live ones, not copies."""
        model = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        average = {f"ema.{i}": t for i, t in enumerate(self.ema.average)}
        tracks = self.snapshots.tensors() if self.snapshots else {}
        return model | average | optimizer_tensors(self.optimizer) | tracks

    def numbers(self) -> dict[str, Any]:
        """What is not a tensor, as JSON holds it."""
        scaler = self.scaler.state_dict() if self.scaler else {}
        done = {"step": self.step, "best": self.best, "validated_step": self.validated_step}
        length = {"images": self.images, "batch": self.batch, "first_images": self.first_images}
        return done | length | {"scaler": scaler}

    def save(self, path: Path, identity: Mapping[str, Any], seed: int) -> None:
        """Write everything, with the settings (`identity`, `seed`) that a resume must share."""
        save_tensors(path, self.tensors(), {**self.numbers(), "identity": dict(identity), "seed": seed})

    def load(self, path: Path) -> None:
        """Inverse of `save`. Raises RunError when the file is missing or damaged."""
        tensors, metadata = load_tensors(path)
        self.module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for i, average in enumerate(self.ema.average):
            average.copy_(tensors[f"ema.{i}"])
        restore_optimizer(self.optimizer, tensors)
        if self.snapshots:
            self.snapshots.restore(tensors)
        if self.scaler and metadata.get("scaler"):
            self.scaler.load_state_dict(metadata["scaler"])
        self.step, self.best = metadata["step"], metadata["best"]
        self.validated_step = metadata["validated_step"]
        self.first_images = metadata.get("first_images", metadata["identity"].get("images", self.images))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{key}": torch.as_tensor(v) for i, entry in state.items() for key, v in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = _laid_out_as(tensor, parameters[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """`tensor` in its parameter's memory layout, where it has its shape: what an unbroken run would hold."""
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if tensor.shape == parameter.shape else tensor
