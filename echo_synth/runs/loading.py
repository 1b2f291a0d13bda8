"""A network with its weights, from a description that may lie: nothing large is made before both are known to fit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from echo_synth.errors import RunError
from echo_synth.runs.description import Description, build_model
from echo_synth.runs.tensors import load_tensors, misfit, not_readable, shapes_of

_FLOATS = {"F64", "F32", "F16", "BF16"}


def load_model(description: Description, weights: Path) -> nn.Module:
    """The network that `description` says, with `weights`, float32, in evaluation mode, without gradients.

    Names, shapes and types are compared on the meta device and in the file's header first; then the
    weights take the places of the tensors there, so that none is initialised for nothing.

    Raises:
        RunError: no network can be built so, or the weights are not its own, damaged or not finite.
    """
    module = _without_numbers(description, weights)
    own = module.state_dict()
    _check_header(own, weights)
    tensors, _ = load_tensors(weights)
    module.load_state_dict({name: tensors[name].to(like.dtype, copy=True) for name, like in own.items()}, assign=True)
    return module.eval().requires_grad_(False)


def _without_numbers(description: Description, weights: Path) -> nn.Module:
    """The described network on the meta device, where it takes no memory; buffers that no file holds have their numbers."""
    try:
        with torch.device("meta"):
            return build_model(description)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise RunError(
            f"{weights.parent}: no network can be built from its model.json ({str(e).splitlines()[0]:.120}); "
            "expected one that echosynth wrote"
        ) from None


def _check_header(own: dict[str, Tensor], weights: Path) -> None:
    try:
        with safe_open(weights, framework="pt") as f:
            slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {name: part.get_dtype() for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as e:
        raise not_readable(weights, e) from None
    wrong = misfit(shapes_of(own), shapes)
    if wrong:
        raise RunError(f"{weights}: does not fit this network ({wrong}); is it of another size?")
    for name, tensor in own.items():
        if tensor.is_floating_point() and types[name] not in _FLOATS:
            raise RunError(f"{weights}: {name} is of type {types[name]}, expected floating point numbers")
