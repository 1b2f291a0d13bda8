"""How far the training of a run is, read from the header of its state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from echo_synth.errors import RunError
from echo_synth.runs.description import VaeDescription
from echo_synth.runs.folder import DESCRIPTION, STATE, WEIGHTS, read_description
from echo_synth.runs.tensors import not_readable

TRAIN_AGAIN = "train again with --overwrite"  # what helps when a state is of no use


@dataclass(frozen=True)
class Progress:
    """Images that a training has seen, how many it is to see, and whether it came to its end."""

    images: int
    planned: int
    finished: bool

    def __str__(self) -> str:
        if not self.finished and self.images == self.planned:
            return f"unfinished: {self.images} images seen, its last phase is not over"
        return f"{self.images} images" if self.finished else f"unfinished: {self.images} of {self.planned} images"


def read_state_header(folder: Path, advice: str = TRAIN_AGAIN) -> dict[str, Any]:
    """What the state of a run holds besides tensors: step, best, identity, seed, validated_step.

    Raises RunError when it is missing or, with `advice`, damaged.
    """
    path = folder / STATE
    try:
        with safe_open(path, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as e:
        raise not_readable(path, e, advice) from None
    if not isinstance(header, dict) or not isinstance(header.get("identity", {}), dict):
        raise RunError(f"{path}: not the state of a training of echosynth; {advice}")
    return header


def progress_of(folder: Path) -> Progress | None:
    """How far the run is; None where there is no state: imported, averaged, bundled, or not begun.

    Raises RunError when the state is damaged.
    """
    if not (folder / STATE).is_file():
        return None
    header = read_state_header(folder)
    try:
        length, step = {**header["identity"], **header}, int(header["step"])
        images, batch = int(length["images"]), int(length["batch"])
        validated = int(header["validated_step"]) == step
        if min(step, images) < 0 or batch < 1:
            raise ValueError("no position of a training")
    except (KeyError, TypeError, ValueError, OverflowError):
        raise RunError(f"{folder / STATE}: does not say how far the training is; {TRAIN_AGAIN}") from None
    over = validated and step * batch >= images and _decoder_is_finished(folder)
    return Progress(min(step * batch, images), images, over)


def _decoder_is_finished(folder: Path) -> bool:
    """Whether the weights are those after the last phase that model.json speaks of, if it speaks of one."""
    description = read_description(folder) if (folder / DESCRIPTION).is_file() else None
    asked = description.decoder_finish if isinstance(description, VaeDescription) else 0
    if not asked:
        return True
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("echosynth", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.get("decoder_finish") == asked
