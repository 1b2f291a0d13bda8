"""Where things live: ECHOSYNTH_HOME and nnU-Net's own folders."""

from __future__ import annotations

import os
from pathlib import Path

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def home() -> Path:
    """ECHOSYNTH_HOME, by default ./echosynth_home; not created here."""
    return Path(os.environ.get("ECHOSYNTH_HOME") or "echosynth_home").absolute()


def nnunet_folder(name: str) -> Path:
    """nnU-Net's folder of that variable, or its default below ECHOSYNTH_HOME/nnunet."""
    assert name in NNUNET_FOLDERS
    value = os.environ.get(name)
    return Path(value).absolute() if value else home() / "nnunet" / name.removeprefix("nnUNet_")


def plugin_folder() -> Path:
    """The folder that nnUNet_extTrainer must name: the trainers and nothing else."""
    import nnunet_plugin

    return Path(nnunet_plugin.__file__).parent


def runs() -> Path:
    """Default parent of run folders."""
    return home() / "runs"


def maps() -> Path:
    """Default parent of condition map folders."""
    return home() / "maps"


def classification() -> Path:
    """Default parent of classification folders."""
    return home() / "datasets" / "classification"
