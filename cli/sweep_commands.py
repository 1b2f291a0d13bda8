"""The experiment as one command: sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.as_json import Json, print_report
from cli.common import begin, done, say
from cli.options import PRICE_HELP, Device, DryRun

if TYPE_CHECKING:
    from echo_synth.estimate import Estimate
    from echo_synth.experiment.measured import Throughput
    from echo_synth.experiment.spec import SweepSpec
    from echo_synth.experiment.sweep import Sweep


_HOURS, _RESTARTS = 24.0, 3  # of a job, where nobody asks for others


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("sweep")(sweep)


def sweep(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC", help="YAML file, or a preset: smoke, cpu, nfe, questions, six-models, paper, paper-grid."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/sweeps/<name of the spec>.")] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Cells to run, comma separated; a name without its seeds: all its repeats. Default: all."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Show how far every cell is; run nothing.")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="Submit cells as jobs: local (on the GPUs of this machine) or slurm.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="With --cluster: GPUs per cell.")] = 0,
    hours: Annotated[float, typer.Option(min=0.1, help="With --cluster: time limit per cell, hours.")] = _HOURS,
    partition: Annotated[str | None, typer.Option(help="With --cluster slurm: partition.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="With --cluster slurm: cores per cell.")] = None,
    mem: Annotated[float | None, typer.Option(min=0.1, help="With --cluster slurm: memory per cell, GiB.")] = None,
    account: Annotated[str | None, typer.Option(help="With --cluster slurm: account to charge.")] = None,
    qos: Annotated[str | None, typer.Option(help="With --cluster slurm: quality of service.")] = None,
    constraint: Annotated[
        str | None, typer.Option(help="With --cluster slurm: required node features, e.g. a100.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="With --cluster slurm: maximum number of cells at the same time.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="With --cluster slurm: how often a cell that reaches --hours is queued again.")
    ] = _RESTARTS,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            help="Result folder of 'echosynth benchmark'. With --dry-run: estimate the cost before there are data and weights; with --status: seconds and price of an image from it, not from the sweep's own drawing."
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0,
            help=f"{PRICE_HELP} Adds the price of 1000 images to table and figures.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="To generate images: auto, fp32, bf16, fp16 or int8; default: the spec's, else auto."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Generate images through torch.compile (slow to start).")
    ] = False,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run an experiment of many cells; each generates, trains, predicts and evaluates. Run again to resume.

    Example: echosynth sweep cpu.yaml
    """
    from echo_synth.experiment.spec import read_sweep
    from echo_synth.home import home

    experiment = read_sweep(spec)  # before the libraries are loaded: a mistake is told at once
    experiment = _in_ways(experiment, precision, compiled)
    folder = (out or home() / "sweeps" / spec.stem).absolute()
    wanted = [n.strip() for n in only.split(",")] if only else None
    for_slurm = {"cpus": cpus, "mem": mem, "partition": partition, "account": account, "qos": qos}
    for_slurm |= {"constraint": constraint, "at-once": at_once, "restarts": restarts if restarts != _RESTARTS else None}
    _check_job_options(cluster, {"gpus": gpus or None, "hours": hours if hours != _HOURS else None}, for_slurm)
    throughput = _measured(experiment, benchmark, status, dry_run)
    if dry_run and (throughput is not None or price is not None):
        _price(experiment, wanted, throughput, price, folder)

    from echo_synth.device import training_device
    from echo_synth.experiment.cluster import JobLimits
    from echo_synth.experiment.contents import check_contents
    from echo_synth.experiment.cost import machine_in_words
    from echo_synth.experiment.inputs import check_sizes
    from echo_synth.experiment.results import FILES
    from echo_synth.experiment.sweep import plan_sweep
    from echo_synth.files import write_json
    from echo_synth.outputs import check_results

    limits = JobLimits(hours, gpus, partition, cpus, mem, account, qos, constraint, at_once, restarts)
    # On a cluster the device is that of the job, not of this machine.
    device = device if cluster else training_device(device)
    check_results(folder, "sweep", FILES, overwrite=True)  # its own give way as cells are done
    planned = replace(plan_sweep(experiment, folder, wanted, device, say), price=price, throughput=throughput)
    check_contents(folder, planned.inputs)
    if throughput is not None:
        check_sizes(planned.inputs, throughput)
    expected = _say_how_long(planned, device, status, dry_run)
    settings = begin(
        "sweep",
        _settings(planned, device)
        | ({"cluster": cluster, "job": asdict(limits)} if cluster else {})
        | ({"estimate": asdict(expected)} if dry_run and expected else {}),
        dry_run,
        [f"estimate: {expected}"],
    )
    try:
        if not status:
            write_json(folder / "settings.json", settings)
            if cluster:
                planned.run_on(cluster, limits, say)
            else:
                planned.run_here(say)
    finally:  # also of what a failure or Ctrl-C leaves
        begun = (folder / "settings.json").is_file()
        figures = planned.results.publish() if begun else []
    if as_json:
        print_report("sweep", folder, FILES, {"cells": [planned.results.row(c) for c in planned.cells]})
        return
    _show(planned)
    if throughput is not None:
        say(f"seconds of an image: of one process, {throughput.folder}, {machine_in_words(throughput.machine)}")
    wrote = [f"results: {folder / 'results.csv'}", *planned.results.notes()] if begun else []
    done(*wrote, *([f"figures: {', '.join(figures)}"] if figures else []))


def _check_job_options(cluster: str | None, of_jobs: Mapping[str, object], of_slurm: Mapping[str, object]) -> None:
    """Raise typer.BadParameter for an option of jobs that would change nothing: without jobs, or where they are not Slurm's."""
    needed = "--cluster" if cluster is None else "--cluster slurm"
    useless = {} if cluster == "slurm" else of_slurm if cluster else {**of_jobs, **of_slurm}
    for name, value in useless.items():
        if value is not None:
            raise typer.BadParameter(f"{value}; expected with {needed} only", param_hint=f"--{name}")


def _settings(planned: Sweep, device: str) -> dict[str, object]:
    """What settings.json says, and a dry run prints."""
    from echo_synth.experiment.contents import contents_known

    inputs, workspace = planned.inputs, planned.workspace
    cells = {c.name: {"state": workspace.state(c), "stages": [s.folder for s in c.stages]} for c in planned.chosen}
    return {
        "spec": planned.spec,
        "out": workspace.out,
        "maps": inputs.maps,
        "fingerprints": inputs.fingerprints,
        "contents": inputs.contents,
        "known_contents": contents_known(workspace.out, inputs),
        "device": device,
        "cells": cells,
    }


def _in_ways(experiment: SweepSpec, precision: str | None, compiled: bool) -> SweepSpec:
    """`experiment` with what the options say about how images are computed. Raises SpecError for ways that do not go together."""
    from echo_synth.generation.ways import check_ways

    asked = {"precision": precision or experiment.precision, "compile": compiled or experiment.compile}
    check_ways(str(asked["precision"]), bool(asked["compile"]))
    return experiment.model_copy(update=asked)


def _measured(experiment: SweepSpec, benchmark: Path | None, status: bool, dry_run: bool) -> Throughput | None:
    """The benchmark that was named; it has to know every model of the spec where results are to be shown with it.

    Raises typer.BadParameter where nothing would use it, SpecError for a model that it lacks, DataError as `read_throughput`.
    """
    if benchmark is None:
        return None
    if not (status or dry_run):
        raise typer.BadParameter("expected with --dry-run or --status", param_hint="--benchmark")
    from echo_synth.experiment.measured import read_throughput

    throughput = read_throughput(benchmark)
    if status and not dry_run:
        for row in experiment.models:
            throughput.speed(experiment.model_of(row), 1)
    return throughput


def _price(
    experiment: SweepSpec, only: list[str] | None, throughput: Throughput | None, price: float | None, folder: Path
) -> None:
    """Print what the whole experiment costs, and end. Raises typer.BadParameter for a price without a benchmark."""
    if throughput is None:
        raise typer.BadParameter("expected --benchmark too, which tells the hours", param_hint="--price")
    from echo_synth.experiment.cost import fleet_of
    from echo_synth.experiment.sweep_cost import plan_cells, price_sweep

    cells = plan_cells(experiment, only)
    cost = price_sweep(experiment, cells, throughput, fleet_of(None, None, price, throughput.machine), folder)
    for line in cost.lines():
        say(line)
    names = [c.name for c in cells]
    begin(
        "sweep", {"spec": experiment, "out": folder, "cells": names, "cost": cost.as_dict()}, True, list(cost.lines())
    )


def _say_how_long(planned: Sweep, device: str, status: bool, dry_run: bool) -> Estimate | None:
    """Tell the estimate, and return it, in a dry run; before a sweep on this machine, only where it takes over an hour."""
    from echo_synth.device import training_device
    from echo_synth.experiment.estimate import SweepEstimator

    estimator = SweepEstimator(planned.spec, planned.inputs, planned.workspace, training_device(device))
    if status or (not dry_run and estimator.is_small(planned.chosen)):
        return None
    expected = estimator.of(planned.chosen)
    if dry_run or expected.is_long:
        say(f"estimate: {expected}; it can be interrupted, the same command continues it")
    return expected


def _show(planned: Sweep) -> None:
    from cli.cells_table import print_cells
    from echo_synth.report.sweep_rows import MONEY

    numbers = {"dice_lv_endo": "Dice LV endo", "accuracy": "Accuracy", "seconds_per_image": "s an image"}
    if planned.price is not None:
        numbers[MONEY] = "price of 1000"
    rows = [["Cell", "Stages", *numbers.values()]]
    for cell in planned.cells:
        row = planned.results.row(cell)
        shown = [f"{row[k]:.3g}" if row.get(k) is not None else "–" for k in numbers]
        rows.append([cell.name, str(row["state"]), *shown])
    print_cells(rows, planned.workspace.out.name)
