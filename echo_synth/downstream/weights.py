"""nnU-Net's checkpoints are pickles, which can run anything when they are read: look before nnU-Net does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from echo_synth.errors import RunError

# All that nnU-Net puts beside tensors, numbers and text: entries of its log.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    scalar,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "bool")),
]


def check_weights(file: Path) -> None:
    """Read a checkpoint with torch's restricted reader, which builds tensors and plain values and calls nothing else.

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
    if not isinstance(content, dict) or "network_weights" not in content:
        raise RunError(f"{file}: holds no network_weights, expected a checkpoint of nnU-Net; remove it and train again")
    bad = [name for name, tensor in content["network_weights"].items() if not torch.isfinite(tensor).all()]
    if bad:
        raise RunError(f"{file}: weights of {bad[0]} are not finite; remove it and train again")
