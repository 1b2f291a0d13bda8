"""Command that tells what a dataset will cost: plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.as_json import Json, print_json
from cli.options import Model


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("plan")(plan)


def plan(
    images: Annotated[int, typer.Option(min=1, help="Images to draw.")],
    model: Model,
    nfe: Annotated[int, typer.Option(min=1, max=1_000_000, help="Network evaluations an image.")],
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs that draw at the same time; default: one.")] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Instead: cores; a process takes as many as the benchmark's had threads.")
    ] = None,
    benchmark: Annotated[
        Path, typer.Option(help="Folder of 'echosynth benchmark', run on one of what will draw.")
    ] = Path("benchmark"),
    price: Annotated[
        float | None, typer.Option(min=0, help="An hour of one GPU, or of one core, in any currency.")
    ] = None,
    like: Annotated[
        int | None, typer.Option(help="Id of a dataset whose bytes an image are taken; default: documented ones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell hours, disk and money of drawing a dataset, from a measured benchmark; draws nothing.

    Example: echosynth plan --images 1000000 --model edm-l64 --nfe 4 --gpus 8 --benchmark benchmark --price 2.5
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.experiment.cost import DOCUMENTED, fleet_of, footprint_of, plan_dataset
    from echo_synth.experiment.measured import read_throughput

    specs.diffusion_model(model)
    throughput = read_throughput(benchmark)
    fleet = fleet_of(gpus, cpus, price, throughput.machine)
    footprint = DOCUMENTED if like is None else footprint_of(nnunet_raw.find(like, "--like"))
    planned = plan_dataset(images, model, nfe, fleet, throughput, footprint)
    if as_json:
        print_json(planned.as_dict())
    else:
        typer.echo("\n".join(planned.lines()))
