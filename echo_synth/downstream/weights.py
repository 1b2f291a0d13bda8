"""nnU-Net's checkpoints are pickles, which can run anything when they are read: look before nnU-Net does.

What starts a training from another's weights reads them here too, and leaves nnU-Net's own reader out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import nn

from echo_synth.errors import RunError
from echo_synth.runs.tensors import is_finite

# All that nnU-Net puts beside tensors, numbers and text: entries of its log.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    scalar,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "bool")),
]


Weights = dict[str, torch.Tensor]


def check_weights(file: Path) -> None:
    """Raises RunError as `read_weights`."""
    read_weights(file)


def read_weights(file: Path) -> Weights:
    """The network of a checkpoint, on the CPU, by torch's restricted reader: it builds tensors and plain values and calls nothing else.

    Raises RunError when the file is damaged or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise RunError(
            f"{file}: damaged, or not weights as nnU-Net writes them ({reason:.120}); nothing in it was run. "
            "Remove it and train again"
        ) from None
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise RunError(f"{file}: holds no network_weights, expected a checkpoint of nnU-Net; remove it and train again")
    bad = [name for name, tensor in _tensors(content) if not is_finite(tensor)]
    if bad:
        raise RunError(f"{file}: {bad[0]:.80} holds values that are not finite; remove it and train again")
    return weights


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested dictionaries and lists, with the keys that lead to them: weights, and the optimiser's state."""
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, dict | list | tuple):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def fingerprint(weights: Weights) -> str:
    """First 16 hex digits of a SHA-256 of names, shapes and values; what else a checkpoint holds changes nothing."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # As a vector: a kernel of one pixel counts as contiguous in any layout, and only a vector is one for `view` too.
        digest.update(
            tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode()
        )
    return digest.hexdigest()[:16]


def start_from(network: nn.Module, weights: Weights, file: Path) -> None:
    """Give `network` the weights of `file`. Raises RunError unless names and shapes are its own."""
    whole = getattr(network, "_orig_mod", network)  # of torch.compile
    own = whole.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = sorted(k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape)
    if missing or extra or wrong:
        raise RunError(
            f"--init {file}: does not fit the network of this trainer and dataset ({len(missing)} of its tensors missing, "
            f"{len(extra)} extra, {len(wrong)} of another shape, e.g. {(missing or extra or wrong)[0]:.80}); "
            "expected a training with the same network: the same --trainer, images of the same size"
        )
    whole.load_state_dict(weights)
