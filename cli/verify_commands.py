"""Command that tells whether a dataset, condition maps or a run is still what it was made as: verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.as_json import Json, print_json
from cli.common import done, say

if TYPE_CHECKING:
    from echo_synth.verification.verdict import Verdict


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("verify")(verify)


def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="nnU-Net raw dataset (its classification folder is checked too), condition maps, or a run.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Find missing, altered or extra files in a dataset, condition maps or a run, by the hashes recorded when it was made.

    Exit code 0: complete and unchanged; 1: something is wrong, one line per file on standard output.

    Example: echosynth verify echosynth_home/nnunet/raw/Dataset601_EDM-L64_nfe20
    """
    from echo_synth.verification.verify import verify as check

    verdict = check(folder.absolute())
    if as_json:
        print_json(verdict.as_json())
    else:
        _print(verdict)
    if not verdict.whole:
        raise typer.Exit(1)


def _print(verdict: Verdict) -> None:
    for folder, fault in verdict.faults:
        why = f" ({fault.why})" if fault.why else ""
        typer.echo(_safe(f"{fault.kind}: {folder / fault.file}{why}"))
    for note in verdict.notes:
        say(_safe(note))
    looked = f"{verdict.files} files, {verdict.size / 1e6:.1f} MB"
    if verdict.whole and verdict.recorded:
        done(f"whole: {looked}, each as it was made")
    elif verdict.whole:
        done(f"nothing wrong found: {looked}")
    else:
        counts = {
            kind: sum(f.kind == kind for _, f in verdict.faults) for kind in sorted({f.kind for _, f in verdict.faults})
        }
        done(f"not whole: {', '.join(f'{n} {kind}' for kind, n in counts.items())}; {looked} looked at")


def _safe(text: str) -> str:
    """Names of files may hold line breaks and what moves a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
