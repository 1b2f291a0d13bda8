"""How long commands take to start: seconds of CPU of `echosynth COMMAND --help`, as a Markdown table.

Usage: python docs/recipes/start_up_times.py [COMMAND …] (default: all), on a quiet machine. Below the table: the modules
that take longest to import, by `python -X importtime`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import typer

from cli.groups import GROUPS
from cli.main import app

REPEATS, SLOWEST = 5, 8
# The console script's own line, with this Python: the one installed may be of another checkout.
START = "import sys; from cli.main import main; sys.argv[0] = 'echosynth'; main()"


def main(names: list[str]) -> None:
    """One row a command, the overview first."""
    unknown = set(names) - set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    if unknown:
        raise SystemExit(f"no such command: {', '.join(sorted(unknown))}")
    wanted = [[], *([name] for name in names or [n for group in GROUPS.values() for n in group])]
    print("| command | CPU s | s |\n| --- | --- | --- |")
    for words in wanted:
        cpu, wall = zip(*(_once([*words, "--help"]) for _ in range(REPEATS)), strict=True)
        line = " ".join(["echosynth", *words, "--help"])
        print(f"| `{line}` | {statistics.median(cpu):.2f} | {statistics.median(wall):.2f} |", flush=True)
    print("\n" + "\n".join(f"- {module}: {milliseconds:.0f} ms" for module, milliseconds in _imports()))


def _once(words: list[str]) -> tuple[float, float]:
    """Seconds of CPU (user and system) and of the clock."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"echosynth {' '.join(words)} ended with {status}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start


def _imports() -> list[tuple[str, float]]:
    """Modules by the time that they take by themselves, in milliseconds, the slowest first."""
    command = [sys.executable, "-X", "importtime", "-c", START, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    rows = [line.removeprefix("import time:").split("|") for line in told.splitlines() if "|" in line]
    own = [(name.strip(), int(alone) / 1000) for alone, _, name in rows if alone.strip().isdecimal()]
    return sorted(own, key=lambda row: -row[1])[:SLOWEST]


if __name__ == "__main__":
    main(sys.argv[1:])
