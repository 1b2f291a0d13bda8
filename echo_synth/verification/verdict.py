"""What a check found, in one record for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echo_synth.checksums import Comparison, Fault


@dataclass
class Verdict:
    """What was looked at and what is wrong.

    Attributes:
        kind: "dataset", "pictures" (a classification folder), "maps" or "run".
        files, size: files that were read, and their bytes.
        recorded: whether hashes were recorded for all of it, so that any changed byte is found.
        faults: by folder, with names relative to it.
        notes: what could not be checked, in words.
        facts: what dataset.json says of where a dataset comes from.
    """

    folder: Path
    kind: str
    files: int = 0
    size: int = 0
    recorded: bool = True
    faults: list[tuple[Path, Fault]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not self.faults

    def add(self, folder: Path, found: Comparison) -> None:
        """What a look at one folder found."""
        self.files += found.files
        self.size += found.size
        self.faults += [(folder, fault) for fault in found.faults]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        faults = [
            {"kind": f.kind, "folder": str(folder), "file": f.file, "why": f.why or None} for folder, f in self.faults
        ]
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "whole": self.whole,
            "recorded": self.recorded,
            "files": self.files,
            "bytes": self.size,
            "faults": faults,
            "notes": self.notes,
            "facts": self.facts,
        }
