"""Command that tells what a dataset will cost: plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.as_json import Json, print_json
from cli.options import PRICE_HELP, Model


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("plan")(plan)


def plan(
    images: Annotated[int, typer.Option(min=1, help="Images to generate.")],
    model: Model,
    nfe: Annotated[int, typer.Option(min=1, max=1_000_000, help="Network evaluations per image.")],
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs that work at the same time; default: one.")] = None,
    cpus: Annotated[
        int | None,
        typer.Option(min=1, help="CPU cores, instead of GPUs; a process uses as many as the benchmark had threads."),
    ] = None,
    benchmark: Annotated[
        Path, typer.Option(help="Result folder of 'echosynth benchmark', run on the same kind of GPU or core.")
    ] = Path("benchmark"),
    price: Annotated[float | None, typer.Option(min=0, help=PRICE_HELP)] = None,
    like: Annotated[
        int | None, typer.Option(help="Id of a dataset that has the expected bytes per image; default: 66 kB.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate hours, disk and cost of generating a dataset, from a benchmark; generates nothing.

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
