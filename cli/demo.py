"""The whole chain as one command: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, say
from cli.options import DryRun, Seed


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes; run again to resume.")] = Path(
        "demo_out"
    ),
    minutes: Annotated[float, typer.Option(min=1, help="About how long it may take on two CPU cores.")] = 8.0,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Run the whole chain on simulated patients: convert, maps, Γ-VAE, diffusion, images, nnU-Net, classifier, statistics.

    Example: echosynth demo --out demo_out
    """
    from echo_synth.experiment.demo import Demo
    from echo_synth.outputs import check_results
    from echo_synth.progress import format_seconds

    check_results(out.absolute(), "demo", ("report.html",), overwrite=True)  # run again, it goes on

    work = Demo(out.absolute(), minutes, seed)
    if dry_run:
        say(f"estimate: about {round(work.expected_minutes, 1):g} min on two cores, 1 GiB of disk, 3 GiB of memory")
    settings = begin("demo", {"out": out.absolute(), "minutes": minutes, "seed": seed}, dry_run)
    say(
        "EchoSynth demo: every stage on simulated hearts, small and quick; the numbers show that the chain runs, not how good it can be"
    )
    seconds = work.run(settings, say)
    done(*(f"{name}: {format_seconds(s)}" for name, s in seconds.items()))
    done(f"total: {format_seconds(sum(seconds.values()))}", f"report: {out / 'report.html'}")
