"""torch.compile for drawing: how on each kind of device, and what it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from torch import nn

from echo_synth.errors import RunError

_COMPILERS = ("g++", "clang++", "c++")


def compile_parts(parts: Sequence[nn.Module], device: str) -> None:
    """Compile `parts` in place; each takes one to two minutes at its first call, and again for inputs of another size.

    On a GPU with CUDA graphs. On a CPU the weights are frozen into the compiled code, which packs them for its products and
    fuses normalisation, modulation and activation; later changes of the weights have no effect.

    Raises RunError where a CPU has no C++ compiler.
    """
    on_gpu = device.startswith("cuda")
    if not on_gpu and not _compiler():
        raise RunError(
            f"--compile on a CPU needs a C++ compiler, found none of {', '.join(_COMPILERS)} (or $CXX); install one, or "
            "leave --compile out: the images are the same up to rounding"
        )
    for part in parts:
        if on_gpu:
            part.compile(mode="reduce-overhead")
        else:
            part.compile(options={"freezing": True})


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else _COMPILERS)), None)
