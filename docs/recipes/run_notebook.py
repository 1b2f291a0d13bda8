"""Run a notebook's code, top to bottom, in one namespace and without Jupyter. Usage: run_notebook.py NOTEBOOK [--write]

--write keeps under each cell what it printed and its figures, small ones: what a reader of the docs site sees.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

COLOURS = 64  # of a figure that is kept
DPI = 72


def run(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Every code cell with its outputs, as it is run. Raises whatever a cell raises."""
    os.environ["MPLBACKEND"] = "Agg"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
        yield cell, [*_text(said.getvalue()), *_figures()]


def _text(said: str) -> list[dict[str, Any]]:
    return [{"output_type": "stream", "name": "stdout", "text": said.splitlines(keepends=True)}] if said else []


def _figures() -> Iterator[dict[str, Any]]:
    """Open figures as PNG, with their title as the text of whoever cannot see them; they are closed."""
    if "matplotlib.pyplot" not in sys.modules:
        return
    from matplotlib import pyplot
    from PIL import Image

    for number in pyplot.get_fignums():
        figure, drawn, packed = pyplot.figure(number), io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, dpi=DPI)
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(packed, "PNG", optimize=True)
        data = {"image/png": base64.b64encode(packed.getvalue()).decode(), "text/plain": [figure.get_suptitle()]}
        yield {"output_type": "display_data", "metadata": {}, "data": data}
        pyplot.close(figure)


def main(file: str, write: bool) -> None:
    """Run it; print what it prints."""
    notebook = json.loads(Path(file).read_text(encoding="utf-8"))
    for count, (cell, outputs) in enumerate(run(notebook), start=1):
        print("".join(line for o in outputs for line in o.get("text", [])), end="", flush=True)
        cell["execution_count"], cell["outputs"] = count, outputs
    if write:
        Path(file).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], "--write" in sys.argv[2:])
