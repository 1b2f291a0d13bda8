"""The experiment as one command: sweep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import begin, done, say
from cli.options import Device, DryRun


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("sweep")(sweep)


def sweep(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file, or a preset: smoke, cpu, questions, paper.")],
    out: Annotated[Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/sweeps/<name of the spec>.")] = None,
    only: Annotated[str | None, typer.Option(help="Cells to run, comma separated; default: all.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Show how far every cell is, run nothing.")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="Hand cells to submitit: local (several GPUs of this machine) or slurm.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="With --cluster: GPUs a cell.")] = 0,
    hours: Annotated[float, typer.Option(min=0.1, help="With --cluster: time limit a cell.")] = 24.0,
    partition: Annotated[str | None, typer.Option(help="With --cluster slurm: partition.")] = None,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Run an experiment: each cell generates, trains, predicts and evaluates; run again to resume.

    Example: echosynth sweep cpu.yaml
    """
    from cli.sweep import Runner
    from echo_synth.device import training_device
    from echo_synth.errors import SpecError
    from echo_synth.experiment.cells import build_cells
    from echo_synth.experiment.spec import read_sweep
    from echo_synth.files import write_json
    from echo_synth.home import home

    experiment = read_sweep(spec)
    # On a cluster the device is that of the job, not of this machine.
    device = device if cluster else training_device(device)
    folder = (out or home() / "sweeps" / spec.stem).absolute()
    found = outside(experiment)
    maps, fingerprints = found.maps, found.fingerprints
    cells = build_cells(experiment, fingerprints, found.solvers)
    wanted = [n.strip() for n in only.split(",")] if only else [c.name for c in cells]
    unknown = sorted(set(wanted) - {c.name for c in cells})
    if unknown:
        raise SpecError(f"--only {unknown[0]}: expected some of {', '.join(c.name for c in cells)}")
    runner = Runner(experiment, folder, maps, found.checkpoints, device)
    chosen = [c for c in cells if c.name in wanted]
    settings = begin(
        "sweep",
        {"spec": experiment, "out": folder, "maps": maps, "fingerprints": fingerprints, "device": device,
         "cells": {c.name: {"state": runner.state(c), "stages": [s.folder for s in c.stages]} for c in chosen}},
        dry_run,
    )  # fmt: skip
    try:
        if not status:
            write_json(folder / "settings.json", settings)
            if cluster:
                submit(runner, cells, chosen, cluster, {"hours": hours, "gpus": gpus, "partition": partition})
            else:
                _run_here(runner, cells, chosen)
    finally:  # also of what a failure or Ctrl-C leaves
        pictures = publish(runner, cells)
    _show(runner, cells)
    done(f"results: {folder / 'results.csv'}", *([f"figures: {', '.join(pictures)}"] if pictures else []))


@dataclass(frozen=True)
class Outside:
    """What a sweep takes from outside.

    Attributes:
        maps: folder of condition maps.
        checkpoints: run folders by the fingerprint of their weights.
        fingerprints: of the real data, the maps, the trainer, and of the weights of each row.
        solvers: by row and NFE, "auto" resolved.
    """

    maps: Path
    checkpoints: dict[str, Path]
    fingerprints: dict[str, str]
    solvers: dict[tuple[str, int], str]


def outside(experiment: Any) -> Outside:
    """Find and name everything that comes from outside; says which run each row draws with.

    Raises DataError or RunError, before any work, when something is missing.
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.data.maps import open_maps
    from echo_synth.downstream import nnunet
    from echo_synth.generation.sources import newest_maps, solver_of, vae_run
    from echo_synth.home import home
    from echo_synth.runs.folder import file_hash, find_diffusion

    real = nnunet_raw.find(experiment.real)
    maps = home() / experiment.maps if experiment.maps else newest_maps()
    opened = open_maps(maps)
    found = {
        "real": file_hash(real.path / "cases.csv"),
        "maps": file_hash(opened.path / "index.parquet"),
    }
    if experiment.segmenter:
        found["trainer"] = json.dumps(nnunet.trainer_facts(experiment.segmenter.trainer), sort_keys=True)
    checkpoints: dict[str, Path] = {}
    solvers: dict[tuple[str, int], str] = {}
    for row, grid in experiment.models.items():
        model = experiment.model_of(row)
        run = find_diffusion(model, home() / grid.checkpoint if grid.checkpoint else None)
        preset = specs.diffusion_model(model)
        vae = vae_run(run, preset.vae, None)
        found[row] = run.hash() + (vae.hash() if vae else "")
        checkpoints[found[row]] = run.folder
        solvers |= {(row, n): solver_of(run, grid.solver, n, preset.solvers) for n in grid.nfe}
        say(f"{row}: {run.folder}{'' if grid.checkpoint else ', the newest run of ' + model}")
    return Outside(opened.path, checkpoints, found, solvers)


def _run_here(runner: Any, cells: Any, chosen: Any) -> None:
    """One cell after the other; a cell that fails does not stop the rest."""
    failed = []
    for i, cell in enumerate(chosen):
        if i:  # after the last one the caller does
            publish(runner, cells)
        say(f"[{i + 1}/{len(chosen)}] {cell.name}: {runner.state(cell)}")
        failed += runner.run_cells([cell], say)
    _raise(failed, chosen, "mend what their logs name and run again")


def _raise(failed: Any, chosen: Any, remedy: str) -> None:
    from echo_synth.errors import RunError

    if failed:
        raise RunError(f"{len(failed)} of {len(chosen)} cells failed ({', '.join(failed)}); {remedy}")


def submit(runner: Any, cells: Any, chosen: Any, cluster: str, limits: dict[str, Any]) -> None:
    """Through submitit: under SLURM a job a cell; on this machine a job for each share of its GPUs, cells in turn. Waits for all."""
    from echo_synth.errors import RunError

    try:
        import submitit
    except ImportError:
        raise RunError("--cluster needs the package submitit; install it with: pip install 'echosynth[cluster]'") from None  # fmt: skip
    minutes, gpus = round(limits["hours"] * 60), limits["gpus"]
    if cluster == "local":
        workers = _gpu_count() // gpus if gpus else 1
        if not workers:
            raise RunError(f"--gpus {gpus}: this machine has {_gpu_count()}; ask for as many or fewer")
        jobs = []
        for k in range(min(workers, len(chosen))):
            executor = submitit.LocalExecutor(folder=runner.out / "jobs")
            executor.update_parameters(timeout_min=minutes, gpus_per_node=gpus, visible_gpus=list(range(k * gpus, (k + 1) * gpus)))  # fmt: skip
            jobs.append(executor.submit(runner.run_cells, chosen[k::workers]))
    else:
        executor = submitit.AutoExecutor(folder=runner.out / "jobs", cluster=cluster)
        executor.update_parameters(timeout_min=minutes, gpus_per_node=gpus)
        if limits["partition"]:
            executor.update_parameters(slurm_partition=limits["partition"])
        jobs = executor.map_array(runner.run_cells, [[c] for c in chosen])
    say(f"{len(jobs)} jobs: {', '.join(j.job_id for j in jobs)}")
    for job in jobs:
        job.exception()  # waits
        publish(runner, cells)
    _raise([c.name for c in chosen if runner.state(c) != "done"], chosen, f"their logs are in {runner.out / 'jobs'}")


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def publish(runner: Any, cells: Any) -> list[str]:
    """results.csv, comparisons.csv and the figures, as far as the cells are; returns the figures' names."""
    table = write_results(runner, cells)
    pictures = write_figures(runner, cells, table)
    write_comparisons(runner, cells)  # last: what cannot be compared keeps nothing else from being written
    return pictures


def write_results(runner: Any, cells: Any) -> Any:
    """results.csv: a row a cell, done or not. Returns the table."""
    import pandas as pd

    from echo_synth.files import write_text

    table = pd.DataFrame([runner.row(c) for c in cells])
    write_text(runner.out / "results.csv", table.to_csv(index=False, float_format="%.6g"))
    return table


def write_comparisons(runner: Any, cells: Any) -> None:
    """comparisons.csv: the pairs that the spec names, as far as both cells are done."""
    from echo_synth.evaluation.statistics import Resampling
    from echo_synth.experiment.comparisons import compare_cells
    from echo_synth.files import write_text

    file, wanted = runner.out / "comparisons.csv", {n for pair in runner.spec.compare.values() for n in pair}
    scores = {c.name: t for c in cells if c.name in wanted and (t := runner.per_case(c)) is not None}
    table = compare_cells(runner.spec.compare, scores, Resampling(runner.spec.repeats))
    if len(table):
        write_text(file, table.to_csv(index=False, float_format="%.6g"))
    else:  # of an earlier form of the spec
        file.unlink(missing_ok=True)


def write_figures(runner: Any, cells: Any, table: Any) -> list[str]:
    """The figures that `report` shows, as far as there is something to draw; one that no longer holds is removed."""
    from echo_synth.files import write_bytes
    from echo_synth.report import figures, sweep_figures

    drawings = {
        "images.png": lambda: sweep_figures.image_grid(*_pictures(runner, cells)),
        "scores.png": lambda: sweep_figures.scores(table),
        "throughput.png": lambda: sweep_figures.throughput(table),
        "pareto.png": lambda: sweep_figures.cost_front(table),
    }
    made = []
    for name, draw in drawings.items():
        figure = draw()
        if figure is None:
            (runner.out / name).unlink(missing_ok=True)
        else:
            write_bytes(runner.out / name, figures.png(figure))
            made.append(name)
    return made


def _pictures(runner: Any, cells: Any) -> tuple[dict[tuple[str, int], Any], Any]:
    """The first case that every synthetic dataset of the first seed holds, from each of them, and its mask."""
    from echo_synth.data.nifti import read_pixels

    datasets = {
        (c.facts["row"], c.facts["nfe"]): d
        for c in cells
        if c.facts["kind"] == "synthetic" and c.facts["seed"] == runner.spec.seeds[0] and (d := runner.drawn(c))
    }
    shared = sorted(set.intersection(*({*d.cases()["case"]} for d in datasets.values()))) if datasets else []
    if not shared:
        return {}, None
    case = shared[0]
    mask = read_pixels(next(iter(datasets.values())).label_path(case, "train"))
    return {k: read_pixels(d.image_path(case, "train")) for k, d in datasets.items()}, mask


def _show(runner: Any, cells: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Cell", "Stages", "Dice LV endo", "Accuracy", "s an image", title=str(runner.out.name))
    for cell in cells:
        row = runner.row(cell)
        shown = [f"{row[k]:.3g}" if row.get(k) is not None else "–" for k in ("dice_lv_endo", "accuracy", "seconds_per_image")]  # fmt: skip
        table.add_row(cell.name, row["state"], *shown)
    Console().print(table)
