"""Weights and training state on disk: safetensors and JSON, atomic, no pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from echo_synth.errors import RunError
from echo_synth.files import write_atomic

STATE = "state.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors with JSON `metadata` in one file, so that both change together or not at all."""
    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = {"echosynth": json.dumps(metadata or {})}
    write_atomic(path, lambda p: save_file(held, p, metadata=text))


def load_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file. Raises RunError when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt", device=device) as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            metadata = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except FileNotFoundError:
        raise RunError(f"{path}: missing") from None
    except (SafetensorError, OSError, ValueError) as e:
        raise RunError(f"{path}: not a readable safetensors file ({e})") from None
    return tensors, metadata


def check_identity(folder: Path, mine: Mapping[str, Any]) -> None:
    """Raise RunError unless the state in `folder` was made with the settings `mine`; names the first that differs."""
    try:
        with safe_open(folder / STATE, framework="pt") as f:
            metadata = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except (SafetensorError, OSError, ValueError) as e:
        raise RunError(f"{folder / STATE}: not a readable safetensors file ({e})") from None
    theirs = {**metadata.get("identity", {}), "seed": metadata.get("seed")}
    own = json.loads(json.dumps(dict(mine)))
    changed = [k for k in own if own[k] != theirs.get(k)]
    if changed:
        k = changed[0]
        raise RunError(
            f"{folder}: was started with {k} = {theirs.get(k)}, asked to resume with {own[k]}; "
            "use the same settings, or another --out"
        )


def load_weights(module: nn.Module, path: Path) -> None:
    """Load `path` into `module` exactly. Raises RunError that names what is missing, extra or misshapen."""
    tensors, _ = load_tensors(path)
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or wrong:
        first = (missing or extra or wrong)[0]
        raise RunError(
            f"{path}: does not fit this network ({len(missing)} missing, {len(extra)} extra, "
            f"{len(wrong)} of another shape, e.g. {first}); is it of another size?"
        )
    module.load_state_dict(tensors)


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
