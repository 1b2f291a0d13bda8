"""Figures on disk as soon as they are known, and what time is left. The standard library alone: it is used before anything is installed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"


@dataclass
class Book:
    """A line of JSON a figure, in OUT/results.jsonl.

    Args:
        out: folder of the results.
        seconds: until the end of what may take time.
    """

    out: Path
    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.start)

    def add(self, section: str, **values: Any) -> None:
        """Write and print a figure; a kill after it costs nothing of it."""
        short = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()}
        line = json.dumps({"section": section, **short}, default=str)
        with open(self.out / RESULTS, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(section, *(f"{k}={v}" for k, v in short.items()), flush=True)

    def has(self, section: str, seconds: float, **what: Any) -> bool:
        """Whether that much time is left; says so where it is not."""
        enough = self.left >= seconds
        if not enough:
            needs = f"needs about {seconds:.0f} s, {max(0.0, self.left):.0f} s are left"
            self.add(section, **what, state="skipped", why=needs)
        return enough


def rows(out: Path) -> list[dict[str, Any]]:
    """All figures so far."""
    file = out / RESULTS
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
