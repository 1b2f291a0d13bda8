"""Commands that draw synthetic datasets: generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import begin, done, one_of, parse_numbers, say
from cli.options import DatasetId, Device, DryRun, Overwrite, Precision, Seed, Size

SOLVER_HELP = "heun, euler, dpmpp-2m, unipc, or ddpm (ancestral)."


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("generate")(generate)
    app.command("sample-grid")(sample_grid)
    app.command("benchmark")(benchmark)
    app.command("study-solvers")(study_solvers)


def generate(
    model: Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")],
    nfe: Annotated[int, typer.Option(min=1, max=10000, help="Network evaluations an image, spent exactly.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Map folder; default: the newest, else the bundled maps.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Images; default: one a map.")] = None,
    solver: Annotated[str, typer.Option(help=f"auto (the run's solver study, else heun), {SOLVER_HELP}")] = "auto",
    seed: Seed = 0,
    dataset_id: Annotated[
        int | None, typer.Option(help="Default: the unfinished one with these settings, else the next free from 601.")
    ] = None,
    classification: Annotated[Path | None, typer.Option(help="Folder for the classification copy.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    precision: Precision = "auto",
    fast: Annotated[str, typer.Option(help="on, or off: the plain way (no kept modulations), for comparison.")] = "on",
    modulation_memory: Annotated[
        int,
        typer.Option(min=0, help="MiB for SPADE modulations kept during a trajectory; what exceeds it is recomputed."),
    ] = 4096,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile, with CUDA graphs on a GPU; slow to start.")
    ] = False,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n processes, i from 0.")] = "0/1",
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Draw a synthetic dataset into nnU-Net's raw format and a classification folder; run again to resume.

    Example: echosynth generate --model edm-l64 --nfe 100
    """
    from echo_synth import registry, specs
    from echo_synth.data import label_maps
    from echo_synth.generation import engine, manifest, run
    from echo_synth.generation.writer import DatasetWriter
    from echo_synth.training.distributed import main_first, on_main

    spec = specs.diffusion_model(model)
    part = _parse_shard(shard)
    device = registry.training_device(device)
    precision = registry.resolve_precision(precision, device)
    one_of("--fast", fast, ("on", "off"))
    _known_solver(solver if solver != "auto" else "heun")
    weights = registry.find_run(model, checkpoint)
    how = engine.default_sampler(spec.precond, nfe, _solver_of(weights, solver, nfe))
    latents = _vae_run(weights, spec.vae, vae)
    folder = label_maps.open_maps(maps or _newest_maps())
    rows = manifest.plan(folder.index, count, seed)
    facts = {
        "model": model, "size": weights.description["size"], "model_hash": weights.hash(),
        "vae_hash": latents.hash() if latents else None, "nfe": nfe, "solver": how.solver,
        "discretization": how.discretization, "seed": seed, "precision": precision, "trained_on": weights.description.get("trained_on"),
    }  # fmt: skip
    identity = facts | {"maps": str(folder.path), "count": len(rows), "batch": batch}
    target = on_main(device, lambda: _target(dataset_id, f"{spec.dataset_name}_nfe{nfe}", identity))
    pictures = classification or _classification_folder(target)
    settings = begin(
        "generate", {**identity, "checkpoint": weights.folder, "dataset": target, "classification": pictures}, dry_run
    )
    if checkpoint is None or maps is None:
        say(f"weights: {weights.folder}\nmaps: {folder.path}")
    writer = DatasetWriter(target, pictures, rows, identity, part)
    with main_first(device):
        writer.open(settings)
    loaded = engine.Generator(
        weights.load(), latents.load() if latents else None, device, precision, fast == "on", modulation_memory << 20, compiled,  # type: ignore[arg-type]
    )  # fmt: skip
    drawn, complete = run.generate(loaded, folder, writer, how, seed, batch, facts)
    state = "complete" if complete else "other shards are still to come"
    done(
        f"drew {drawn} images now; {run.total_cases(rows)}, {state}",
        f"nnU-Net raw dataset: {target}", f"classification folder: {pictures}",
    )  # fmt: skip


def sample_grid(
    model: Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")],
    dataset_id: DatasetId,
    out: Annotated[Path, typer.Option("--out", help="Picture to write (.png).")],
    nfe: Annotated[str, typer.Option(help="Network evaluations, comma separated: one row each.")] = "5,20,100",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")] = None,
    count: Annotated[int, typer.Option(min=1, max=16, help="Validation cases: one column each.")] = 4,
    solver: Annotated[str, typer.Option(help=SOLVER_HELP)] = "heun",
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Draw the maps of held-out validation cases at several NFE, under the real images: the paper's figure 2.

    Example: echosynth sample-grid --model edm-l64 --dataset-id 501 --nfe 5,20,100 --out grid.png
    """
    import numpy as np

    from echo_synth import registry, specs
    from echo_synth.data import nnunet_raw
    from echo_synth.data.prepared import prepare
    from echo_synth.errors import DataError
    from echo_synth.files import check_writable, refuse_existing, write_bytes
    from echo_synth.generation import engine
    from echo_synth.report.figures import picture_rows, png

    spec = specs.diffusion_model(model)
    budgets = parse_numbers("--nfe", nfe)
    device = registry.training_device(device)
    precision = registry.resolve_precision(precision, device)
    weights = registry.find_run(model, checkpoint)
    latents = _vae_run(weights, spec.vae, vae)
    check_writable(out.absolute().parent)
    refuse_existing(out, overwrite)
    begin("sample-grid", {"checkpoint": weights.folder, "nfe": budgets, "out": out, "solver": solver}, dry_run)
    data = prepare(nnunet_raw.find(dataset_id))
    rows = data.rows("val")
    if not len(rows):
        raise DataError(f"dataset {dataset_id} has no validation cases")
    rows = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
    generator = engine.Generator(weights.load(), latents.load() if latents else None, device, precision)  # type: ignore[arg-type]
    pictures = [np.asarray(data.images[rows])]
    for budget in budgets:
        how = engine.default_sampler(spec.precond, budget, _known_solver(solver))
        pictures.append(generator.draw(data.tissues[rows], data.views[rows], seed, range(count), how))
    labels = ["real", *(f"{n} NFE" for n in budgets)]
    write_bytes(out, png(picture_rows({spec.dataset_name: np.stack(pictures, axis=1)}, labels)))
    done(f"wrote {out}: {count} validation maps, {', '.join(labels)}")


def study_solvers(
    model: Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")] = None,
    nfe: Annotated[str, typer.Option(help="Network evaluations, comma separated.")] = "5,10,15,20,25,50,100",
    count: Annotated[int, typer.Option(min=1, help="Maps to measure on.")] = 8,
    converged: Annotated[int, typer.Option(min=11, help="NFE of the Heun solution that counts as converged.")] = 1001,
    maps: Annotated[Path | None, typer.Option(help="Map folder; default: the newest, else the bundled maps.")] = None,
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

    from echo_synth import registry, specs
    from echo_synth.data import label_maps
    from echo_synth.files import check_writable, refuse_existing, write_bytes, write_json, write_text
    from echo_synth.generation import convergence, engine
    from echo_synth.report.figures import convergence_curves, png
    from echo_synth.types import VIEWS

    spec = specs.diffusion_model(model)
    budgets = parse_numbers("--nfe", nfe)
    device = registry.training_device(device)
    precision = registry.resolve_precision(precision, device)
    weights = registry.find_run(model, checkpoint)
    latents = _vae_run(weights, spec.vae, vae)
    folder = (out or weights.folder).absolute()
    check_writable(folder)
    refuse_existing(folder / "solvers.json", overwrite)
    begin(
        "study-solvers",
        {"checkpoint": weights.folder, "nfe": budgets, "converged": converged, "count": count, "out": folder},
        dry_run,
    )
    opened = label_maps.open_maps(maps or _newest_maps())
    used = opened.index.iloc[np.linspace(0, len(opened.index) - 1, count).astype(int)]
    tissues = np.stack([opened.read(name) for name in used["map"]])
    views = np.asarray([VIEWS.index(v) for v in used["view"]], np.uint8)
    generator = engine.Generator(weights.load(), latents.load() if latents else None, device, precision)  # type: ignore[arg-type]
    table = convergence.study(generator, tissues, views, spec.precond, budgets, converged, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "solvers.csv", table.to_csv(index=False, float_format="%.6g"))
    write_bytes(folder / "solvers.png", png(convergence_curves(table, f"{spec.title}: distance from {converged} NFE")))
    recommended = convergence.recommend(table)
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
    import numpy as np
    import pandas as pd

    from echo_synth import registry, specs
    from echo_synth.data import label_maps
    from echo_synth.files import check_writable, refuse_existing, write_bytes, write_json, write_text
    from echo_synth.generation import benchmark as timing
    from echo_synth.generation import engine
    from echo_synth.report.figures import png, throughput_curves
    from echo_synth.types import VIEWS

    chosen = {name.strip(): specs.diffusion_model(name.strip()) for name in models.split(",")}
    budgets = parse_numbers("--nfe", nfe)
    one_of("--measure", measure, ("stages", "whole"))
    one_of("--fast", fast, ("on", "off"))
    _known_solver(solver)
    device = registry.training_device(device)
    precision = registry.resolve_precision(precision, device)
    check_writable(out.absolute())
    refuse_existing(out / "throughput.csv", overwrite)
    settings = {"models": list(chosen), "nfe": budgets, "size": size, "batch": batch, "repeats": repeats, "solver": solver,
                "fast": fast, "precision": precision, "device": device, "compile": compiled}  # fmt: skip
    resolved = begin("benchmark", settings, dry_run)
    folder = label_maps.open_maps(_newest_maps())
    used = folder.index.iloc[:batch]
    tissues = np.stack([folder.read(name) for name in used["map"]])
    views = np.asarray([VIEWS.index(v) for v in used["view"]], np.uint8)
    rows, parts = [], []
    for name, spec in chosen.items():
        loaded = timing.fresh(name, size, device, precision, fast == "on", compiled)
        stages = timing.stages(loaded, tissues, views, repeats)
        for stage, seconds in stages.seconds.items():
            parts.append(
                {
                    "model": name,
                    "stage": stage,
                    "seconds_per_batch": timing.median(seconds),
                    "slowest": max(seconds),
                    "fastest": min(seconds),
                }
            )
        for budget in budgets:
            row = {"model": name, "nfe": budget, "images_per_second": 1 / stages.per_image(budget)}
            if measure == "whole":
                measured = timing.whole(
                    loaded, tissues, views, engine.default_sampler(spec.precond, budget, _known_solver(solver)), repeats
                )
                row |= {"measured": timing.median(measured), "slowest": min(measured), "fastest": max(measured)}
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


def _parse_shard(text: str) -> tuple[int, int]:
    """i/n, or the process's place under torchrun."""
    import os

    from echo_synth.errors import SpecError

    if text == "0/1" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError:
        i, n = -1, 0
    if not 0 <= i < n:
        raise SpecError(f"--shard {text}: expected i/n with 0 <= i < n, such as 0/4")
    return i, n


def _known_solver(name: str) -> str:
    from echo_synth.errors import SpecError
    from echo_synth.sampling import SOLVERS

    if name not in SOLVERS:
        raise SpecError(f"--solver {name}: expected one of {', '.join(SOLVERS)}")
    return name


def _solver_of(weights: Any, solver: str, nfe: int) -> str:
    """`solver`, or for auto what study-solvers found for this run, else Heun (the paper's choice)."""
    from echo_synth.files import read_json
    from echo_synth.generation.convergence import solver_for

    if solver != "auto":
        return solver
    file = weights.folder / "solvers.json"
    return solver_for(read_json(file)["recommended"], nfe) if file.is_file() else "heun"


def _vae_run(weights: Any, vae_model: str | None, folder: Path | None) -> Any:
    from echo_synth import registry
    from echo_synth.errors import RunError

    if vae_model is None:
        return None
    if folder is None:
        return registry.find_vae_of(weights.description, vae_model, weights.folder)
    run = registry.open_run(folder, "vae")
    if run.hash() != weights.description["vae"]:
        raise RunError(
            f"{folder}: its weights are {run.hash()}, {weights.folder} was trained on {weights.description['vae']}"
        )
    return run


def _newest_maps() -> Path:
    from echo_synth import specs
    from echo_synth.home import maps

    found = [p.parent for p in maps().glob("*/index.parquet")]
    return max(found, key=lambda p: p.stat().st_mtime) if found else specs.root() / "bundled" / "maps"


def _target(dataset_id: int | None, name: str, identity: dict[str, Any]) -> Path:
    """Folder of the dataset: the one with that id if it is the same dataset, or a new one."""
    from echo_synth.data import nnunet_raw
    from echo_synth.errors import ExistsError
    from echo_synth.home import nnunet_folder

    raw = nnunet_folder("nnUNet_raw")
    if dataset_id is None:
        unfinished = _unfinished(raw, name, identity)
        return unfinished or raw / f"Dataset{nnunet_raw.next_free_id(601):03d}_{name}"
    nnunet_raw.check_id(dataset_id)
    path = raw / f"Dataset{dataset_id:03d}_{name}"
    taken = [p for p in nnunet_raw.existing(dataset_id) if p != path]
    if taken:
        raise ExistsError(f"dataset id {dataset_id} is taken by {taken[0]}; choose another --dataset-id")
    return path


def _unfinished(raw: Path, name: str, identity: dict[str, Any]) -> Path | None:
    from echo_synth.files import read_json

    for path in sorted(raw.glob(f"Dataset*_{name}")):
        known = path / "settings.json"
        if (
            known.is_file()
            and not (path / "manifest.parquet").is_file()
            and read_json(known).get("identity") == identity
        ):
            return path
    return None


def _classification_folder(target: Path) -> Path:
    from echo_synth.home import classification

    return classification() / target.name
