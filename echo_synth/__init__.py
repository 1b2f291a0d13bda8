"""EchoSynth: synthetic echocardiograms for training models.

Submodules load on first use, so that `import echo_synth` and the command line stay fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
_LAZY = ("compat", "data", "diffusion", "metrics", "sampling", "specs", "vae")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"echo_synth.{name}")
    raise AttributeError(f"module 'echo_synth' has no attribute {name!r}")
