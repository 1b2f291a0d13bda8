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
    import numpy as np

    from echo_synth.data.maps import open_maps
    from echo_synth.evaluation import solver_study
    from echo_synth.files import check_writable, refuse_existing, write_bytes, write_json, write_text
    from echo_synth.generation.run import read_batch
    from echo_synth.generation.sources import choose_model, newest_maps
    from echo_synth.report.figures import convergence_curves, png

    budgets = parse_numbers("--nfe", nfe)
    chosen = choose_model(model, checkpoint, vae, device, precision)
    spec, weights = chosen.spec, chosen.run
    folder = (out or weights.folder).absolute()
    check_writable(folder)
    refuse_existing(folder / "solvers.json", overwrite)
    begin(
        "study-solvers",
        {"checkpoint": weights.folder, "nfe": budgets, "converged": converged, "count": count, "out": folder},
        dry_run,
    )
    opened = open_maps(maps or newest_maps())
    used = opened.index.iloc[np.linspace(0, len(opened.index) - 1, count).astype(int)]
    tissues, views = read_batch(opened, used)
    loaded = chosen.load()
    table = solver_study.study(loaded, tissues, views, spec.precond, budgets, converged, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "solvers.csv", table.to_csv(index=False, float_format="%.6g"))
    write_bytes(folder / "solvers.png", png(convergence_curves(table, f"{spec.title}: distance from {converged} NFE")))
    recommended = solver_study.recommend(table)
    write_json(
        folder / "solvers.json", {"recommended": recommended, "converged_nfe": converged, "maps": count, "seed": seed}
    )
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
    import statistics

    import pandas as pd

    from echo_synth import specs
    from echo_synth.data.maps import open_maps
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.evaluation import throughput as timing
    from echo_synth.files import check_writable, refuse_existing, write_bytes, write_json, write_text
    from echo_synth.generation.engine import default_settings
    from echo_synth.generation.run import read_batch
    from echo_synth.generation.sources import check_solver, newest_maps
    from echo_synth.report.figures import png, throughput_curves

    chosen = {name.strip(): specs.diffusion_model(name.strip()) for name in models.split(",")}
    budgets = parse_numbers("--nfe", nfe)
    one_of("--measure", measure, ("stages", "whole"))
    one_of("--fast", fast, ("on", "off"))
    check_solver(solver)
    device = training_device(device)
    precision = resolve_precision(precision, device)
    check_writable(out.absolute())
    refuse_existing(out / "throughput.csv", overwrite)
    settings = {"models": list(chosen), "nfe": budgets, "size": size, "batch": batch, "repeats": repeats, "solver": solver,
                "fast": fast, "precision": precision, "device": device, "compile": compiled}  # fmt: skip
    resolved = begin("benchmark", settings, dry_run)
    folder = open_maps(newest_maps())
    used = folder.index.iloc[:batch]
    tissues, views = read_batch(folder, used)
    rows, parts = [], []
    for name, spec in chosen.items():
        loaded = timing.fresh(name, size, device, precision, fast == "on", compiled)
        stages = timing.stages(loaded, tissues, views, repeats)
        parts += [{"model": name, **row} for row in stages.rows()]
        for budget in budgets:
            row = {"model": name, "nfe": budget, "images_per_second": 1 / stages.per_image(budget)}
            if measure == "whole":
                measured = timing.whole(
                    loaded, tissues, views, default_settings(spec.precond, budget, check_solver(solver)), repeats
                )
                row |= {"measured": statistics.median(measured), "slowest": min(measured), "fastest": max(measured)}
            rows.append(row)
        say(
            f"{name}: {rows[-1]['images_per_second']:.3g} images/s at {budgets[-1]} NFE, peak memory {timing.peak_memory(device) / 2**20:.0f} MiB"
        )
        if name == "sdm":
            reference = 1 / stages.per_image(1000)
    table = pd.DataFrame(rows)
    known = reference if "sdm" in chosen else None
    if known:
        table["times_sdm_1000"] = table["images_per_second"] / known
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "settings.json", resolved | timing.machine(device))
    write_text(out / "stages.csv", pd.DataFrame(parts).to_csv(index=False, float_format="%.6g"))
    write_bytes(out / "throughput.png", png(throughput_curves(table, known)))
    write_text(out / "throughput.csv", table.to_csv(index=False, float_format="%.6g"))
    done(table.to_string(index=False, float_format="%.3g"), f"wrote {out}: throughput.csv, throughput.png, stages.csv")
