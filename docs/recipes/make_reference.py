"""Write the command reference from the commands' own help. Usage: python docs/recipes/make_reference.py OUT"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

from cli.main import app


def main(out: str) -> None:
    """One section a command."""
    group = typer.main.get_command(app)
    names = sorted(group.commands)  # type: ignore[attr-defined]
    program = Path(sys.executable).with_name("echosynth")
    parts = ["# Commands\n", "Made by `make docs`; do not edit.\n"]
    for name in names:
        environment = {
            "COLUMNS": "110",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }  # of the checkout that is meant
        text = subprocess.run(
            [program, name, "--help"], capture_output=True, text=True, check=True, env=environment
        ).stdout
        parts.append(f"## {name}\n\n```text\n{text.strip()}\n```\n")
    Path(out).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
