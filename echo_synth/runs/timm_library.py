"""timm, imported without a warning that is for its authors."""

from __future__ import annotations

import warnings
from types import ModuleType


def load_timm() -> ModuleType:
    """The library of image networks; it decorates classes in a way that torch now calls deprecated, which no user can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=FutureWarning)
        import timm
    return timm
