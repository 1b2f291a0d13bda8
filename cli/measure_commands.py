"""Commands that measure solvers and speed: study-solvers, benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.as_json import Json, print_report, rows_of
from cli.common import begin, done, one_of, parse_numbers, say
from cli.options import (
    SOLVER_HELP,
    Checkpoint,
    Device,
    DrawingPrecision,
    DryRun,
    Maps,
    Model,
    Overwrite,
    Seed,
    Size,
    Vae,
)

if TYPE_CHECKING:
    from echo_synth.data.maps import MapFolder
    from echo_synth.evaluation.solver_study import SolverStudy
    from echo_synth.evaluation.throughput import BenchmarkPlan
    from echo_synth.generation.sources import TrainedModel


_BUDGETS = "5,10,15,20,25,50,100"  # network evaluations of study-solvers


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("study-solvers")(study_solvers)
    app.command("benchmark")(benchmark)


def study_solvers(
    model: Model,
    checkpoint: Checkpoint = None,
    vae: Vae = None,
    nfe: Annotated[
        str | None,
        typer.Option(
            help="Network evaluations per image, comma separated; default: 5,10,15,20,25,50,100, with --search also 2 to 12."
        ),
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Search noise levels for 2 to 12 evaluations, on training maps not used to measure them."
        ),
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="Maps to measure on; --search takes as many again.")] = 8,
    converged: Annotated[
        int, typer.Option(min=11, help="Network evaluations of the Heun solution that counts as converged.")
    ] = 1001,
    maps: Maps = None,
    seed: Seed = 0,
    precision: DrawingPrecision = "fp32",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: the run folder.")] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure every solver's distance from the converged solution; generate then takes the best one for its NFE.

    Example: echosynth study-solvers --model edm-l64 --checkpoint runs/edm-l64
    """
    from echo_synth.data.maps import open_maps
    from echo_synth.errors import RunError
    from echo_synth.evaluation import level_search, solver_study
    from echo_synth.evaluation.map_batches import spread_maps
    from echo_synth.generation.known_levels import check_steps
    from echo_synth.generation.request import refuse_other_subject
    from echo_synth.generation.sources import choose_model, newest_maps
    from echo_synth.report.measurements import check_solver_study, write_solver_study

    budgets = parse_numbers("--nfe", nfe or _BUDGETS)
    if search and nfe is None:
        budgets = sorted({*level_search.SEARCHED, *budgets})
    chosen = choose_model(model, checkpoint, vae, device, precision)
    if chosen.run.description.distilled:
        raise RunError(f"{chosen.run.folder}: is distilled and has no trajectory to solve; study its teacher")
    folder = check_solver_study(chosen.run.folder, out, overwrite)
    for each in budgets:  # before the converged solution is computed, which takes longest
        for solver in solver_study.DETERMINISTIC:
            check_steps(chosen.run, solver, each, None)
    opened = open_maps(maps or newest_maps())
    refuse_other_subject(chosen.run, opened)
    settings = {"checkpoint": chosen.run.folder, "nfe": budgets, "converged": converged, "count": count}
    begin("study-solvers", settings | {"search": search, "maps": opened.path, "seed": seed, "out": folder}, dry_run)
    if search:
        study = _search(chosen, opened, budgets, count, converged, seed)
    else:
        tissues, frames = spread_maps(opened, count)
        table = solver_study.study(chosen.load(), tissues, frames, chosen.spec.precond, budgets, converged, seed)
        study = solver_study.SolverStudy(table, converged, count, seed, chosen.run.hash())
    write_solver_study(study, chosen.spec.title, folder)
    files = (*study.tables, "solvers.csv", "solvers.png", "solvers.json")
    if as_json:
        print_report("study-solvers", folder, files, study.summary() | {"distances": rows_of(study.table)})
        return
    recommended = solver_study.recommend(study.table)
    done(
        study.table.pivot(index="nfe", columns="solver", values="rmse").to_string(float_format="%.4g"),
        "nearest solver: " + ", ".join(f"{n} NFE {s}" for n, s in recommended.items()),
        *_searched_lines(study.searched.get("schedules", {})),
        f"wrote {folder}: {', '.join(files)}; generate --solver auto follows it",
    )


def _search(
    chosen: TrainedModel, maps: MapFolder, budgets: list[int], count: int, converged: int, seed: int
) -> SolverStudy:
    from functools import partial

    from echo_synth.evaluation import level_search, solver_study
    from echo_synth.generation.request import refuse_held_out

    few = [n for n in budgets if n in level_search.SEARCHED]
    if not few:
        raise typer.BadParameter("none from 2 to 12; expected some, which --search is for", param_hint="--nfe")
    refuse_held_out(maps, chosen.run.description.trained_on)
    make = partial(solver_study.Yardstick, chosen.load(), discretization=chosen.spec.precond, seed=seed)
    searched_on, judged_on = level_search.yardsticks(make, maps, count, converged)
    table = solver_study.measure(judged_on, budgets)
    found = level_search.LevelSearch(searched_on, judged_on).run(few)
    told = level_search.told(found, count)
    return solver_study.SolverStudy(table, converged, count, seed, chosen.run.hash(), told, {"schedules.csv": found})


def _searched_lines(schedules: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{nfe} NFE: {kept['solver']} along {', '.join(map(str, kept['sigmas']))}: "
        f"{kept['rmse']:.4g}, by its default levels the nearest is at {kept['rmse_default']:.4g}"
        for nfe, kept in schedules.items()
    ]


Models = Annotated[str, typer.Option(help="Comma separated; default: all six.")]
Budgets = Annotated[str, typer.Option(help="Network evaluations per image, comma separated.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at once.")]
Repeats = Annotated[int, typer.Option(min=1, help="Timings of each stage, after one that is not counted.")]
Solver = Annotated[str, typer.Option(help=SOLVER_HELP)]
Measure = Annotated[
    str,
    typer.Option(help="stages: times of the stages, added up for each NFE; whole: also complete trajectories (slow)."),
]
Fast = Annotated[str, typer.Option(help="on, or off: slower plain computation, for comparison.")]
Compiled = Annotated[bool, typer.Option("--compile", help="torch.compile, with CUDA graphs on a GPU.")]


def benchmark(
    models: Models = "sdm,ve,vp,edm,edm-l128,edm-l64",
    nfe: Budgets = "5,10,20,25,50,100,200",
    size: Size = "tiny",
    batch: BatchSize = 8,
    repeats: Repeats = 3,
    solver: Solver = "heun",
    measure: Measure = "stages",
    fast: Fast = "on",
    compiled: Compiled = False,
    precision: DrawingPrecision = "auto",
    device: Device = "auto",
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("benchmark"),
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure images/s against NFE (network evaluations per image) for each model on this machine, and each stage's time.

    Weights do not change the speed, so networks have random weights; maps are the newest or the bundled ones.

    Example: echosynth benchmark --models edm-l64,edm --size tiny
    """
    from echo_synth.device import drawing_precision, training_device
    from echo_synth.evaluation.throughput import BenchmarkPlan
    from echo_synth.generation.solver_choice import check_solver
    from echo_synth.outputs import check_results
    from echo_synth.report.measurements import BENCHMARK_FILES

    device = training_device(device)
    plan = BenchmarkPlan(
        models=tuple(name.strip() for name in models.split(",")),
        budgets=tuple(parse_numbers("--nfe", nfe)),
        size=size,
        repeats=repeats,
        solver=check_solver(solver),
        whole=one_of("--measure", measure, ("stages", "whole")) == "whole",
        fast=one_of("--fast", fast, ("on", "off")) == "on",
        compiled=compiled,
        precision=drawing_precision(precision, device),
        device=device,
    )
    plan.check()
    check_results(out.absolute(), "benchmark", BENCHMARK_FILES, overwrite)
    _measure(plan, batch, out, begin("benchmark", plan.settings() | {"batch": batch}, dry_run), as_json)


def _measure(plan: BenchmarkPlan, batch: int, out: Path, settings: dict[str, Any], as_json: bool) -> None:
    from echo_synth.data.maps import open_maps
    from echo_synth.evaluation import throughput
    from echo_synth.evaluation.map_batches import first_maps
    from echo_synth.generation.sources import newest_maps
    from echo_synth.report.measurements import BENCHMARK_FILES, write_benchmark

    tissues, frames = first_maps(open_maps(newest_maps()), batch)
    measured = throughput.benchmark(plan, tissues, frames, say)
    machine = throughput.machine(plan.device)
    write_benchmark(measured, out, settings | machine)
    if as_json:
        tables = {"throughput": rows_of(measured.table), "stages": rows_of(measured.stages)}
        print_report("benchmark", out, BENCHMARK_FILES, tables | {"machine": machine})
        return
    table = measured.table.to_string(index=False, float_format="%.3g")
    done(table, f"wrote {out}: {', '.join(BENCHMARK_FILES)}")
