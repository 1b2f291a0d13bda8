"""Benchmarks whose seconds an image follow a formula."""

from __future__ import annotations

import json
from pathlib import Path

FIXED, EACH = 0.5, 0.25  # seconds an image: once, and of each evaluation


def seconds(nfe: int) -> float:
    return FIXED + EACH * nfe


def write(
    folder: Path, models: tuple[str, ...] = ("edm-l64",), nfe: tuple[int, ...] = (5, 20), **machine: object
) -> Path:
    """A folder as benchmark leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{model},{n},{1 / seconds(n):.12g}" for model in models for n in nfe]
    (folder / "throughput.csv").write_text("\n".join(["model,nfe,images_per_second", *rows]) + "\n")
    told = {
        "command": "benchmark",
        "size": "paper",
        "precision": "bf16",
        "batch": 8,
        "device": "A GPU",
        "accelerator": "cuda",
    }
    (folder / "settings.json").write_text(json.dumps(told | machine))
    return folder
