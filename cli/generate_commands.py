"""Commands that draw synthetic datasets: generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import begin, done, parse_numbers, say
from cli.options import DatasetId, Device, DryRun, Overwrite, Precision, Seed

SOLVER_HELP = "heun, euler, dpmpp-2m, unipc, or ddpm (ancestral)."


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("generate")(generate)
    app.command("sample-grid")(sample_grid)


def generate(
    model: Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")],
    nfe: Annotated[int, typer.Option(min=1, max=10000, help="Network evaluations an image, spent exactly.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Map folder; default: the newest, else the bundled maps.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Images; default: one a map.")] = None,
    solver: Annotated[str, typer.Option(help=SOLVER_HELP)] = "heun",
    seed: Seed = 0,
    dataset_id: Annotated[
        int | None, typer.Option(help="Default: the unfinished one with these settings, else the next free from 601.")
    ] = None,
    classification: Annotated[Path | None, typer.Option(help="Folder for the classification copy.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    precision: Precision = "auto",
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

    spec = specs.diffusion_model(model)
    part = _parse_shard(shard)
    device = registry.training_device(device)
    precision = registry.resolve_precision(precision, device)
    how = engine.default_sampler(spec.precond, nfe, _known_solver(solver))
    weights = registry.find_run(model, checkpoint)
    latents = _vae_run(weights, spec.vae, vae)
    folder = label_maps.open_maps(maps or _newest_maps())
    rows = manifest.plan(folder.index, count, seed)
    facts = {
        "model": model, "size": weights.description["size"], "model_hash": weights.hash(),
        "vae_hash": latents.hash() if latents else None, "nfe": nfe, "solver": how.solver,
        "discretization": how.discretization, "seed": seed, "precision": precision, "trained_on": weights.description.get("trained_on"),
    }  # fmt: skip
    identity = facts | {"maps": str(folder.path), "count": len(rows), "batch": batch}
    target = _target(dataset_id, f"{spec.dataset_name}_nfe{nfe}", identity)
    pictures = classification or _classification_folder(target)
    settings = begin(
        "generate", {**identity, "checkpoint": weights.folder, "dataset": target, "classification": pictures}, dry_run
    )
    if checkpoint is None or maps is None:
        say(f"weights: {weights.folder}\nmaps: {folder.path}")
    writer = DatasetWriter(target, pictures, rows, identity, part)
    writer.open(settings)
    loaded = engine.Generator(weights.load(), latents.load() if latents else None, device, precision)  # type: ignore[arg-type]
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
