"""Commands that draw synthetic datasets: generate, and noise-dataset as the floor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import begin, done, one_of, say
from cli.generators import SOLVER_HELP, Checkpoint, Maps, Model, Vae, choose, known_solver
from cli.options import Device, DryRun, Precision, Seed


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
    from echo_synth.generation import manifest, run
    from echo_synth.generation.engine import default_settings
    from echo_synth.generation.sources import newest_maps, solver_of
    from echo_synth.generation.writer import DatasetWriter
    from echo_synth.training.distributed import main_first, on_main

    part = _parse_shard(shard)
    one_of("--fast", fast, ("on", "off"))
    known_solver(solver if solver != "auto" else "heun")
    chosen = choose(model, checkpoint, vae, device, precision)
    spec, weights, latents, device, precision = (
        chosen.spec,
        chosen.weights,
        chosen.latents,
        chosen.device,
        chosen.precision,
    )
    how = default_settings(spec.precond, nfe, solver_of(weights, solver, nfe, spec.solvers))
    folder = open_maps(maps or newest_maps())
    rows = manifest.plan(folder.index, count, seed)
    facts = {
        "model": model, "size": weights.description.size, "model_hash": weights.hash(),
        "vae_hash": latents.hash() if latents else None, "nfe": nfe, "solver": how.solver,
        "discretization": how.discretization, "seed": seed, "precision": precision, "trained_on": weights.description.trained_on,
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
    loaded = chosen.load(fast=fast == "on", modulation_bytes=modulation_memory << 20, compiled=compiled)
    start = time.monotonic()
    drawn, complete = run.generate(loaded, folder, writer, how, seed, batch, facts)
    state = "complete" if complete else "other shards are still to come"
    done(
        f"drew {drawn} images in {time.monotonic() - start:.1f} s; {run.total_cases(rows)}, {state}",
        f"nnU-Net raw dataset: {target}", f"classification folder: {pictures}",
    )  # fmt: skip


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
    from echo_synth.generation import manifest, run
    from echo_synth.generation.engine import SamplerSettings
    from echo_synth.generation.noise import NoiseTextures
    from echo_synth.generation.sources import newest_maps
    from echo_synth.generation.writer import DatasetWriter

    folder = open_maps(maps or newest_maps())
    rows = manifest.plan(folder.index, count, seed)
    facts = {"model": "noise", "nfe": 0, "seed": seed}
    identity = facts | {"maps": str(folder.path), "count": len(rows)}
    target = _target(dataset_id, "Noise", identity)
    pictures = classification or _classification_folder(target)
    settings = begin("noise-dataset", {**identity, "dataset": target, "classification": pictures}, dry_run)
    writer = DatasetWriter(target, pictures, rows, identity)
    writer.open(settings)
    run.generate(NoiseTextures(), folder, writer, SamplerSettings(1, "euler", "edm"), seed, 8, facts)
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
