"""Commands that find one's way: list what was made, doctor for what the machine can do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.as_json import Json, print_json

if TYPE_CHECKING:
    from echo_synth.inventory import Entry


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("list")(list_)
    app.command("doctor")(doctor)


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="datasets, maps, runs, segmenters, predictions or results; default: all.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what was made: datasets, maps, runs, segmenters, predictions, results; from what, and whether it is finished.

    Example: echosynth list runs
    """
    from cli.common import one_of
    from echo_synth import inventory
    from echo_synth.home import home, nnunet_folder

    chosen = inventory.KINDS if kind is None else (one_of("KIND", kind, inventory.KINDS),)
    entries = list(inventory.inventory(chosen))
    if as_json:
        print_json([e.as_dict() for e in entries])
        return
    if not entries:
        raw = nnunet_folder("nnUNet_raw")
        elsewhere = "" if raw.is_relative_to(home()) else f" and in {raw}"
        typer.echo(f"nothing in {home()}{elsewhere}; 'echosynth demo' or 'echosynth convert-camus' makes the first")
    for name in chosen:
        group = [e for e in entries if e.kind == name]
        if group:
            typer.echo(name)
            for entry in group:
                typer.echo("\n".join(f"  {line}" for line in _lines(entry)))


def _lines(entry: Entry) -> list[str]:
    from echo_synth.estimate import format_bytes
    from echo_synth.progress import format_seconds

    unit = {"maps": "maps", "predictions": "masks"}.get(entry.kind, "images")
    facts = [entry.what, f"{entry.count} {unit}" if entry.count is not None else ""]
    facts += [format_bytes(entry.size), f"{format_seconds(time.time() - entry.modified)} old" if entry.modified else ""]
    lines = [entry.name, f"  {', '.join(filter(None, facts))}"]
    lines += [f"  from {entry.made_from}"] if entry.made_from else []
    return lines + ([f"  {entry.state}"] if entry.state else [])


def doctor(as_json: Json = False) -> None:
    """Check the installation and the machine: what works, what is missing, and the command that repairs it.

    Exits with 1 when something is broken. Example: echosynth doctor
    """
    from echo_synth.doctor import BROKEN, examine

    found = []
    for finding in examine():
        found.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:8}{finding.what}: {finding.found}")
            if finding.mend:
                typer.echo(f"{'':8}  {finding.mend}")
    if as_json:
        print_json([f.as_dict() for f in found])
    if any(f.state == BROKEN for f in found):
        raise typer.Exit(1)
