"""Commands that draw synthetic datasets: generate, and noise-dataset as the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, one_of, say
from cli.options import SOLVER_HELP, Checkpoint, Device, DryRun, Maps, Model, Precision, Seed, Vae

_NOISE_BATCH = 8


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("generate")(generate)
    app.command("noise-dataset")(noise_dataset)


def generate(
    model: Model,
    nfe: Annotated[int, typer.Option(min=1, max=10000, help="Network evaluations an image, spent exactly.")],
    checkpoint: Checkpoint = None,
    vae: Vae = None,
    maps: Maps = None,
    count: Annotated[int | None, typer.Option(min=1, help="Images; default: one a map.")] = None,
    solver: Annotated[
        str,
        typer.Option(help=f"auto (nearest by study-solvers: this run's, else this model's, else heun), {SOLVER_HELP}"),
    ] = "auto",
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
    from echo_synth.data.maps import open_maps
    from echo_synth.generation import run
    from echo_synth.generation.engine import default_settings
    from echo_synth.generation.manifest import plan_images
    from echo_synth.generation.sources import SampledImages, check_solver, choose_model, newest_maps, solver_of
    from echo_synth.generation.targets import choose_target, classification_folder
    from echo_synth.generation.writer import DatasetWriter
    from echo_synth.training.distributed import main_first, on_main

    part = _parse_shard(shard)
    one_of("--fast", fast, ("on", "off"))
    check_solver(solver if solver != "auto" else "heun")
    chosen = choose_model(model, checkpoint, vae, device, precision)
    preset, described = chosen.spec, chosen.run.description
    sampler = default_settings(preset.precond, nfe, solver_of(chosen.run, solver, nfe, preset.solvers))
    folder = open_maps(maps or newest_maps())
    rows = plan_images(folder.index, count, seed)
    recorded = {
        "model": model,
        "size": described.size,
        "model_hash": chosen.run.hash(),
        "vae_hash": chosen.vae.hash() if chosen.vae else None,
        "nfe": nfe,
        "solver": sampler.solver,
        "discretization": sampler.discretization,
        "seed": seed,
        "precision": chosen.precision,
        "trained_on": described.trained_on,
    }
    identity = recorded | {"maps": str(folder.path), "count": len(rows), "batch": batch}
    target = on_main(chosen.device, lambda: choose_target(dataset_id, f"{preset.dataset_name}_nfe{nfe}", identity))
    pictures = classification or classification_folder(target)
    shown = {**identity, "checkpoint": chosen.run.folder, "dataset": target, "classification": pictures}
    settings = begin("generate", shown, dry_run)
    if checkpoint is None or maps is None:
        say(f"weights: {chosen.run.folder}\nmaps: {folder.path}")
    writer = DatasetWriter(target, pictures, rows, identity, part)
    with main_first(chosen.device):
        writer.open(settings)
    generator = chosen.load(fast == "on", modulation_memory << 20, compiled)
    drawn = run.generate(SampledImages(generator, sampler, chosen.precision), folder, writer, seed, batch, recorded)
    state = "complete" if drawn.complete else "other shards are still to come"
    done(
        f"drew {drawn.images} images in {drawn.seconds:.1f} s; {run.total_cases(rows)}, {state}",
        f"nnU-Net raw dataset: {target}",
        f"classification folder: {pictures}",
    )


def noise_dataset(
    maps: Maps = None,
    count: Annotated[int | None, typer.Option(min=1, help="Images; default: one a map.")] = None,
    seed: Seed = 0,
    dataset_id: Annotated[int | None, typer.Option(help="Default: the next free from 601.")] = None,
    classification: Annotated[Path | None, typer.Option(help="Folder for the classification copy.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Fill maps with noise textures: a dataset that knows the outlines and nothing else, the floor of comparisons.

    Example: echosynth noise-dataset --count 1800
    """
    from echo_synth.data.maps import open_maps
    from echo_synth.generation import run
    from echo_synth.generation.manifest import plan_images
    from echo_synth.generation.noise import NoiseTextures
    from echo_synth.generation.sources import newest_maps
    from echo_synth.generation.targets import choose_target, classification_folder
    from echo_synth.generation.writer import DatasetWriter

    folder = open_maps(maps or newest_maps())
    rows = plan_images(folder.index, count, seed)
    recorded = {"model": "noise", "nfe": 0, "seed": seed}
    identity = recorded | {"maps": str(folder.path), "count": len(rows)}
    target = choose_target(dataset_id, "Noise", identity)
    pictures = classification or classification_folder(target)
    settings = begin("noise-dataset", {**identity, "dataset": target, "classification": pictures}, dry_run)
    writer = DatasetWriter(target, pictures, rows, identity)
    writer.open(settings)
    run.generate(NoiseTextures(), folder, writer, seed, _NOISE_BATCH, recorded)
    done(f"{run.total_cases(rows)}", f"nnU-Net raw dataset: {target}", f"classification folder: {pictures}")


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
