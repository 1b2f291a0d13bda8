"""Command that shows results: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done
from cli.options import DryRun


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("report")(report)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with evaluations, datasets and runs at any depth.")
    ],
    out: Annotated[Path | None, typer.Option(help="Default: DIR/report.html.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace any web page at --out; the command's own page is always replaced."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Write one self-contained page with every table and figure below DIR.

    Example: echosynth report echosynth_home
    """
    from echo_synth.errors import DataError
    from echo_synth.report.target import check_target

    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected one with results")
    target = (out or folder / "report.html").absolute()
    check_target(target, overwrite)
    begin("report", {"folder": folder.absolute(), "out": target}, dry_run)
    from echo_synth.report.page import write_page  # after what is checked: figures take seconds to import

    write_page(target, folder.absolute())
    done(f"report: {target}")
