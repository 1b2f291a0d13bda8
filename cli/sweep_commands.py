"""The experiment as one command: sweep."""

from __future__ import annotations

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
    from echo_synth import registry
    from echo_synth.errors import SpecError
    from echo_synth.experiment.cells import build_cells
    from echo_synth.experiment.spec import read_sweep
    from echo_synth.files import write_json
    from echo_synth.home import home

    experiment = read_sweep(spec)
    # On a cluster the device is that of the job, not of this machine.
    device = device if cluster else registry.training_device(device)
    folder = (out or home() / "sweeps" / spec.stem).absolute()
    maps, checkpoints, fingerprints = outside(experiment)
    cells = build_cells(experiment, fingerprints)
    wanted = [n.strip() for n in only.split(",")] if only else [c.name for c in cells]
    unknown = sorted(set(wanted) - {c.name for c in cells})
    if unknown:
        raise SpecError(f"--only {unknown[0]}: expected some of {', '.join(c.name for c in cells)}")
    runner = Runner(experiment, folder, maps, checkpoints, device)
    chosen = [c for c in cells if c.name in wanted]
    settings = begin(
        "sweep",
        {"spec": experiment, "out": folder, "maps": maps, "fingerprints": fingerprints, "device": device,
         "cells": {c.name: {"state": runner.state(c), "stages": [s.folder for s in c.stages]} for c in chosen}},
        dry_run,
    )  # fmt: skip
    if not status:
        write_json(folder / "settings.json", settings)
        if cluster:
            _submit(runner, cells, chosen, cluster, {"hours": hours, "gpus": gpus, "partition": partition})
        else:
            _run_here(runner, cells, chosen)
    write_results(runner, cells)
    pictures = write_figures(runner, cells) if not status else []
    _show(runner, cells)
    done(f"results: {folder / 'results.csv'}", *([f"figures: {', '.join(pictures)}"] if pictures else []))


def outside(experiment: Any) -> tuple[Path, dict[str, Path], dict[str, str]]:
    """The folder of maps, run folders by fingerprint, and fingerprints of everything that comes from outside.

    Raises DataError or RunError, before any work, when something is missing.
    """
    from cli.generators import newest_maps, vae_run
    from echo_synth import registry, specs
    from echo_synth.data import label_maps, nnunet_raw
    from echo_synth.home import home

    real = nnunet_raw.find(experiment.real)
    maps = home() / experiment.maps if experiment.maps else newest_maps()
    opened = label_maps.open_maps(maps)
    found = {
        "real": registry.file_hash(real.path / "cases.csv"),
        "maps": registry.file_hash(opened.path / "index.parquet"),
    }
    checkpoints: dict[str, Path] = {}
    for row, grid in experiment.models.items():
        model = experiment.model_of(row)
        run = registry.find_run(model, home() / grid.checkpoint if grid.checkpoint else None)
        vae = vae_run(run, specs.diffusion_model(model).vae, None)
        study = run.folder / "solvers.json"  # what solver: auto follows
        found[row] = run.hash() + (vae.hash() if vae else "") + (registry.file_hash(study) if study.is_file() else "")
        checkpoints[found[row]] = run.folder
    return opened.path, checkpoints, found


def _run_here(runner: Any, cells: Any, chosen: Any) -> None:
    """One cell after the other; a cell that fails does not stop the rest."""
    from echo_synth.errors import EchoSynthError, RunError

    failed = []
    for i, cell in enumerate(chosen):
        say(f"[{i + 1}/{len(chosen)}] {cell.name}: {runner.state(cell)}")
        for stage in cell.stages:
            if not runner.done(stage):
                say(f"    {stage.folder}")
            try:
                runner.run(stage)
            except EchoSynthError as e:
                say(f"    {e}")
                failed.append(cell.name)
                break
        write_results(runner, cells)
    if failed:
        raise RunError(f"{len(failed)} of {len(chosen)} cells failed ({', '.join(failed)}); mend what their logs name and run again")  # fmt: skip


def _submit(runner: Any, cells: Any, chosen: Any, cluster: str, limits: dict[str, Any]) -> None:
    """A job a cell through submitit; waits for all of them."""
    from echo_synth.errors import RunError

    try:
        import submitit
    except ImportError:
        raise RunError("--cluster needs the package submitit; install it with: pip install 'echosynth[cluster]'") from None  # fmt: skip
    executor = submitit.AutoExecutor(folder=runner.out / "jobs", cluster=cluster)
    executor.update_parameters(timeout_min=round(limits["hours"] * 60), gpus_per_node=limits["gpus"])
    if limits["partition"]:
        executor.update_parameters(slurm_partition=limits["partition"])
    jobs = executor.map_array(runner.run_cell, chosen)
    say(f"{len(jobs)} jobs: {', '.join(j.job_id for j in jobs)}")
    failed = [cell.name for cell, job in zip(chosen, jobs, strict=True) if job.exception() is not None]
    write_results(runner, cells)
    if failed:
        raise RunError(f"{len(failed)} of {len(chosen)} cells failed ({', '.join(failed)}); their logs are in {runner.out / 'jobs'}")  # fmt: skip


def write_results(runner: Any, cells: Any) -> Any:
    """results.csv: a row a cell, done or not. Returns the table."""
    import pandas as pd

    from echo_synth.files import write_text

    table = pd.DataFrame([runner.row(c) for c in cells])
    write_text(runner.out / "results.csv", table.to_csv(index=False, float_format="%.6g"))
    return table


def write_figures(runner: Any, cells: Any) -> list[str]:
    """The figures that `report` shows, as far as there is something to draw. Returns their names."""
    from echo_synth.files import write_bytes
    from echo_synth.report import figures, sweep_figures

    table = write_results(runner, cells)
    drawings = {
        "images.png": sweep_figures.image_grid(*_pictures(runner, cells)),
        "scores.png": sweep_figures.scores(table),
        "throughput.png": sweep_figures.throughput(table),
        "pareto.png": sweep_figures.cost_front(table),
    }
    made = {name: figure for name, figure in drawings.items() if figure is not None}
    for name, figure in made.items():
        write_bytes(runner.out / name, figures.png(figure))
    return list(made)


def _pictures(runner: Any, cells: Any) -> tuple[dict[tuple[str, int], Any], Any]:
    """The same case from every synthetic dataset that holds it, and its mask."""
    from echo_synth.data import nnunet_raw

    found: dict[tuple[str, int], Any] = {}
    case = mask = None
    for cell in cells:
        dataset = runner.drawn(cell)
        if dataset is None or cell.facts["seed"] != runner.spec.seeds[0]:
            continue
        rows = dataset.cases()
        if case is None:
            case = rows["case"].iloc[0]
            mask = nnunet_raw.read_pixels(dataset.label_path(case, rows["split"].iloc[0]))
        row = rows[rows["case"] == case]
        if len(row):
            found[cell.facts["row"], cell.facts["nfe"]] = nnunet_raw.read_pixels(dataset.image_path(case, row["split"].iloc[0]))  # fmt: skip
    return found, mask


def _show(runner: Any, cells: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Cell", "Stages", "Dice LV endo", "Accuracy", "s an image", title=str(runner.out.name))
    for cell in cells:
        row = runner.row(cell)
        shown = [f"{row[k]:.3g}" if row.get(k) is not None else "–" for k in ("dice_lv_endo", "accuracy", "seconds_per_image")]  # fmt: skip
        table.add_row(cell.name, row["state"], *shown)
    Console().print(table)
