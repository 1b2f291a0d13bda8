"""Tensors on disk: safetensors with JSON metadata, atomic, no pickles."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from echo_synth.errors import RunError
from echo_synth.files import write_atomic


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors with JSON `metadata` in one file, so that both change together or not at all.

    Raises DataError when the disk is full or not writable.
    """

    def save(target: Path) -> None:
        try:
            save_file(held, target, metadata=text)
        except SafetensorError as e:  # a full disk comes as one, its number in the text
            code = next((c for c in (errno.ENOSPC, errno.EDQUOT, errno.EIO) if f"code: {c}," in str(e)), errno.EIO)
            raise OSError(code, os.strerror(code), str(target)) from e

    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = {"echosynth": json.dumps(metadata or {})}
    write_atomic(path, save)


_AGAIN = "train or import it again"


def not_readable(path: Path, e: Exception, advice: str = _AGAIN) -> RunError:
    """Why a safetensors file could not be opened; its library says "no such file" also of one that may not be read."""
    if not path.exists():
        return RunError(f"{path}: missing")
    if not os.access(path, os.R_OK):
        return RunError(f"{path}: no permission to read it; change its rights")
    return RunError(f"{path}: not a readable safetensors file ({e!s:.120}); {advice}")


def load_tensors(path: Path, advice: str = _AGAIN) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file, on the CPU, and its metadata.

    Raises RunError when it is missing, or, with `advice`, damaged or with values that are NaN or infinite.
    """
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            metadata = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as e:
        raise not_readable(path, e, advice) from None
    if not isinstance(metadata, dict):
        raise RunError(f"{path}: its metadata is a {type(metadata).__name__}, expected what echosynth writes there")
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise RunError(f"{path}: {name:.80} holds values that are not finite (NaN or infinity); {advice}")
    return tensors, metadata


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinity, in any type."""
    wide = tensor.float() if tensor.is_floating_point() else tensor  # torch lacks the test for 8 bits
    return bool(torch.isfinite(wide).all())


Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def misfit(expected: Shapes, found: Shapes) -> str | None:
    """What of `found` does not fit, in a few words; None where names and shapes are those expected."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    if not (missing or extra or wrong):
        return None
    return (
        f"{len(missing)} missing, {len(extra)} extra, {len(wrong)} of another shape, "
        f"e.g. {(missing or extra or wrong)[0]:.80}"
    )


def load_weights(module: nn.Module, path: Path) -> None:
    """Load `path` into `module` exactly. Raises RunError that names what is missing, extra or misshapen."""
    tensors, _ = load_tensors(path)
    wrong = misfit(shapes_of(module.state_dict()), shapes_of(tensors))
    if wrong:
        raise RunError(f"{path}: does not fit this network ({wrong}); is it of another size?")
    module.load_state_dict(tensors)
