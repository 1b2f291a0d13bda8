"""Commands that measure solvers and speed: study-solvers, benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, one_of, parse_numbers, say
from cli.options import SOLVER_HELP, Checkpoint, Device, DryRun, Maps, Model, Overwrite, Precision, Seed, Size, Vae


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("study-solvers")(study_solvers)
    app.command("benchmark")(benchmark)


def study_solvers(
    model: Model,
    checkpoint: Checkpoint = None,
    vae: Vae = None,
    nfe: Annotated[str, typer.Option(help="Network evaluations, comma separated.")] = "5,10,15,20,25,50,100",
    count: Annotated[int, typer.Option(min=1, help="Maps to measure on.")] = 8,
    converged: Annotated[int, typer.Option(min=11, help="NFE of the Heun solution that counts as converged.")] = 1001,
    maps: Maps = None,
    seed: Seed = 0,
    precision: Precision = "fp32",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: the run folder.")] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Measure every solver's distance from the converged solution; generate then picks the best one for its NFE.

    Example: echosynth study-solvers --model edm-l64 --checkpoint runs/edm-l64
    """
    from echo_synth.data.maps import open_maps
    from echo_synth.evaluation import solver_study
    from echo_synth.evaluation.map_batches import spread_maps
    from echo_synth.files import check_writable, refuse_existing
    from echo_synth.generation.sources import choose_model, newest_maps
    from echo_synth.report.measurements import write_solver_study

    budgets = parse_numbers("--nfe", nfe)
    chosen = choose_model(model, checkpoint, vae, device, precision)
    spec, weights = chosen.spec, chosen.run
    folder = (out or weights.folder).absolute()
    check_writable(folder)
    refuse_existing(folder / "solvers.json", overwrite)
    settings = {"checkpoint": weights.folder, "nfe": budgets, "converged": converged, "count": count, "out": folder}
    begin("study-solvers", settings, dry_run)
    tissues, views = spread_maps(open_maps(maps or newest_maps()), count)
    table = solver_study.study(chosen.load(), tissues, views, spec.precond, budgets, converged, seed)
    study = solver_study.SolverStudy(table, converged, count, seed)
    write_solver_study(study, spec.title, folder)
    recommended = solver_study.recommend(table)
    done(
        table.pivot(index="nfe", columns="solver", values="rmse").to_string(float_format="%.4g"),
        "nearest solver: " + ", ".join(f"{n} NFE {s}" for n, s in recommended.items()),
        f"wrote {folder}: solvers.csv, solvers.png, solvers.json; generate --solver auto follows it",
    )


def benchmark(
    models: Annotated[str, typer.Option(help="Comma separated; default: all six.")] = "sdm,ve,vp,edm,edm-l128,edm-l64",
    nfe: Annotated[str, typer.Option(help="Network evaluations, comma separated.")] = "5,10,20,25,50,100,200",
    size: Size = "tiny",
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each stage, after one that is not counted.")] = 3,
    solver: Annotated[str, typer.Option(help=SOLVER_HELP)] = "heun",
    measure: Annotated[
        str,
        typer.Option(
            help="stages: times of the stages, added up for each NFE; whole: complete trajectories too (slow)."
        ),
    ] = "stages",
    fast: Annotated[str, typer.Option(help="on, or off: the plain way, for comparison.")] = "on",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile, with CUDA graphs on a GPU.")] = False,
    precision: Precision = "auto",
    device: Device = "auto",
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("benchmark"),
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Measure images/s against NFE for each model on this machine, with the cost of every stage.

    Weights do not change speed: networks are freshly initialised, on the newest or bundled maps.

    Example: echosynth benchmark --models edm-l64,edm --size tiny
    """
    from echo_synth import specs
    from echo_synth.data.maps import open_maps
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.evaluation import throughput
    from echo_synth.evaluation.map_batches import first_maps
    from echo_synth.files import check_writable, refuse_existing
    from echo_synth.generation.sources import check_solver, newest_maps
    from echo_synth.report.measurements import write_benchmark

    names = [name.strip() for name in models.split(",")]
    for name in names:
        specs.diffusion_model(name)
    budgets = parse_numbers("--nfe", nfe)
    one_of("--measure", measure, ("stages", "whole"))
    one_of("--fast", fast, ("on", "off"))
    check_solver(solver)
    device = training_device(device)
    precision = resolve_precision(precision, device)
    check_writable(out.absolute())
    refuse_existing(out / "throughput.csv", overwrite)
    work = {"models": names, "nfe": budgets, "size": size, "batch": batch, "repeats": repeats, "solver": solver}
    machine = {"fast": fast, "precision": precision, "device": device, "compile": compiled}
    resolved = begin("benchmark", work | machine, dry_run)
    tissues, views = first_maps(open_maps(newest_maps()), batch)
    plan = throughput.BenchmarkPlan(
        models=tuple(names),
        budgets=tuple(budgets),
        size=size,
        repeats=repeats,
        solver=solver,
        whole=measure == "whole",
        fast=fast == "on",
        compiled=compiled,
        precision=precision,
        device=device,
    )
    measured = throughput.benchmark(plan, tissues, views, say)
    write_benchmark(measured, out, resolved | throughput.machine(device))
    table = measured.table.to_string(index=False, float_format="%.3g")
    done(table, f"wrote {out}: throughput.csv, throughput.png, stages.csv")
