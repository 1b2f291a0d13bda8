"""What a resumed training needs: one safetensors file with JSON metadata, written atomically, no pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from echo_synth.errors import RunError, SpecError
from echo_synth.runs.progress import TRAIN_AGAIN
from echo_synth.runs.tensors import Shapes, load_tensors, misfit, save_tensors, shapes_of
from echo_synth.specs import validate
from echo_synth.training.ema import PowerEma
from echo_synth.training.posthoc import Snapshots

# What AdamW and Adam (the first three), SGD and Muon keep of a parameter. Muon's mark of which parameters it takes is no tensor:
# their shapes tell it again.
_OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class _Numbers(BaseModel):
    """What `TrainingState.numbers` writes; the identity, which is kept beside it, is compared and not used."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    step: int = Field(ge=0)
    validated_step: int = Field(ge=-1)
    best: dict[str, float]
    first_images: int = Field(default=0, ge=0)
    scaler: dict[str, int | float] = {}  # whole numbers stay so: the scaler counts with them


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

    def load(self, path: Path, advice: str = TRAIN_AGAIN) -> None:
        """Inverse of `save`.

        Raises RunError, with `advice`, when the file is missing, damaged, of another network or
        optimiser, or holds NaN or infinity; this state is as before then.
        """
        tensors, metadata = load_tensors(path, advice)
        try:
            numbers = validate(_Numbers, metadata, str(path))
        except SpecError as e:
            raise RunError(f"{e}; {advice}") from None
        self._check(path, shapes_of(tensors), advice)
        self.module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for i, average in enumerate(self.ema.average):
            average.copy_(tensors[f"ema.{i}"])
        restore_optimizer(self.optimizer, tensors)
        if self.snapshots:
            self.snapshots.restore(tensors)
        if self.scaler and numbers.scaler:
            self.scaler.load_state_dict(numbers.scaler)
        self.step, self.best = numbers.step, numbers.best
        self.validated_step = numbers.validated_step
        self.first_images = numbers.first_images or metadata.get("identity", {}).get("images", self.images)

    def _check(self, path: Path, found: Shapes, advice: str) -> None:
        """Raise RunError unless the tensors are those of this network, its averages and its optimiser."""
        held = {name: shape for name, shape in found.items() if name.startswith("optimizer.")}
        own = {k: s for k, s in shapes_of(self.tensors()).items() if not k.startswith("optimizer.")}
        wrong = misfit(own, {name: shape for name, shape in found.items() if name not in held})
        if wrong:
            raise RunError(f"{path}: does not fit this training ({wrong}); {advice}")
        shapes = [tuple(p.shape) for group in self.optimizer.param_groups for p in group["params"]]
        for name, shape in held.items():
            index, _, key = name.removeprefix("optimizer.").partition(".")
            known = index.isdecimal() and int(index) < len(shapes) and key in _OPTIMIZER_STATE
            if not known or shape != (() if key == "step" else shapes[int(index)]):
                raise RunError(f"{path}: {name:.80} does not fit this training's optimiser; {advice}")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    state = optimizer.state_dict()["state"]
    kept = ((i, key, v) for i, entry in state.items() for key, v in entry.items() if key in _OPTIMIZER_STATE)
    return {f"optimizer.{i}.{key}": torch.as_tensor(v) for i, key, v in kept}


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
