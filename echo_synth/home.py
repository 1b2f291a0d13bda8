"""Where things live: ECHOSYNTH_HOME and nnU-Net's own folders."""

from __future__ import annotations

import os
from pathlib import Path

from echo_synth.errors import DataError

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def home() -> Path:
    """ECHOSYNTH_HOME, by default ./echosynth_home; not created here. Raises DataError for a name that is not UTF-8."""
    return _place("ECHOSYNTH_HOME", Path(os.environ.get("ECHOSYNTH_HOME") or "echosynth_home"))


def nnunet_folder(name: str) -> Path:
    """nnU-Net's folder of that variable, or its default below ECHOSYNTH_HOME/nnunet. Raises DataError as `home`."""
    assert name in NNUNET_FOLDERS
    value = os.environ.get(name)
    return _place(name, Path(value)) if value else home() / "nnunet" / name.removeprefix("nnUNet_")


def _place(variable: str, path: Path) -> Path:
    """Its whole path. Tables and settings hold names as UTF-8 text, and the libraries that write them take no others."""
    whole = path.absolute()
    try:
        str(whole).encode()
    except UnicodeEncodeError:
        shown = str(whole).encode("utf-8", "backslashreplace").decode()
        raise DataError(f"{variable}: {shown} is not a name in UTF-8; set it to another folder") from None
    return whole


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
