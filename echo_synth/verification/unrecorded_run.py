"""Runs of versions that recorded no hashes, and runs that are not finished: whether each file can be read."""

from __future__ import annotations

from pathlib import Path

from echo_synth.checksums import Comparison
from echo_synth.errors import EchoSynthError
from echo_synth.runs.data import training_data_of
from echo_synth.runs.folder import AS_TRAINED, STATE, TEXTURE, open_run
from echo_synth.runs.progress import progress_of, read_state_header
from echo_synth.runs.tensors import load_tensors
from echo_synth.verification.unrecorded import Check, look


def look_at_run(folder: Path) -> Comparison:
    """Description, weights, state and training data of a run: whether each can be read, with finite numbers."""
    names: dict[str, Check] = {"model.json": lambda _: open_run(folder), "model.safetensors": load_tensors}
    optional: dict[str, Check] = {
        STATE: lambda _: read_state_header(folder),
        "data.json": lambda _: training_data_of(folder),
        AS_TRAINED: load_tensors,
        TEXTURE: load_tensors,
    }
    names |= {name: check for name, check in optional.items() if (folder / name).exists()}
    return look(folder, names)


def unfinished(folder: Path) -> str:
    """How far a training that did not come to its end is, and how it goes on; empty for others."""
    try:
        progress = progress_of(folder)
    except EchoSynthError as e:  # damaged: the look at its files tells which and why
        return f"how far its training is cannot be read ({e!s:.100})"
    return f"{progress}; continue it with --resume" if progress and not progress.finished else ""
