"""The table of a sweep's cells on a terminal of any width: no two names may look the same."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def _needed(columns: Sequence[Sequence[str]]) -> int:
    """Width of a table whose names and numbers stand in one line each; headings may be broken between words."""
    cells = [max(len(text) for text in (*column[0].split(), *column[1:])) for column in columns]
    return sum(cells) + 3 * len(cells) + 1  # a space on both sides, and the lines


def print_cells(rows: Sequence[Sequence[str]], title: str, console: Console | None = None) -> None:
    """Print `rows`, of which the first is the heading and the first column the cells' names.

    On a narrow terminal columns are left out from the right, which a line says; a name that is wider than the terminal goes on
    in the next line. No text is shortened.
    """
    console = console or Console()
    columns = list(zip(*rows, strict=True))
    shown = len(columns)
    while shown > 2 and _needed(columns[:shown]) > console.width:
        shown -= 1
    table = Table(title=Text(title))  # names may hold brackets, which rich would take for colours
    for column in columns[:shown]:
        table.add_column(column[0], overflow="fold", no_wrap=False)
    if _needed(columns[:shown]) <= console.width:
        table.columns[0].min_width = max(map(len, columns[0]))
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row[:shown]))
    console.print(table)
    if shown < len(columns):
        left_out = ", ".join(column[0] for column in columns[shown:])
        console.print(f"not shown in {console.width} columns: {left_out}; results.csv has all", soft_wrap=True)
