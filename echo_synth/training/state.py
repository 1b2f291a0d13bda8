"""Weights and training state on disk: safetensors and JSON, atomic, no pickles."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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
