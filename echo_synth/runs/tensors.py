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


def not_readable(path: Path, e: Exception) -> RunError:
    """Why a safetensors file could not be opened; its library says "no such file" also of one that may not be read."""
    if not path.exists():
        return RunError(f"{path}: missing")
    if not os.access(path, os.R_OK):
        return RunError(f"{path}: no permission to read it; change its rights")
    return RunError(f"{path}: not a readable safetensors file ({e!s:.120})")


def load_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file. Raises RunError when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt", device=device) as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            metadata = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as e:
        raise not_readable(path, e) from None
    if not isinstance(metadata, dict):
        raise RunError(f"{path}: its metadata is a {type(metadata).__name__}, expected what echosynth writes there")
    return tensors, metadata


def load_finite(path: Path) -> dict[str, Tensor]:
    """Tensors of a file, on the CPU. Raises RunError when it is missing, damaged, or holds NaN or infinity."""
    tensors, _ = load_tensors(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise RunError(
                f"{path}: {name:.80} holds values that are not finite (NaN or infinity); train or import it again"
            )
    return tensors


def load_weights(module: nn.Module, path: Path) -> None:
    """Load `path` into `module` exactly. Raises RunError that names what is missing, extra or misshapen."""
    tensors = load_finite(path)
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
