"""Commands that train generators: train-vae, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import begin, done, say
from cli.options import DatasetId, Device, DryRun, Out, Overwrite, Precision, Resume, Seed, Size

Images = Annotated[
    int | None, typer.Option("--images", min=1, help="Training length in images; default: the preset's.")
]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Global batch; default: the preset's.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate; default: the preset's.")]
Init = Annotated[Path | None, typer.Option("--init", help="Run folder whose weights to start from (fine-tuning).")]
MicroBatch = Annotated[
    int | None, typer.Option("--micro-batch", min=1, help="Images at once; the batch is accumulated.")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("train-vae")(train_vae)
    app.command("train")(train)


def train_vae(
    model: Annotated[str, typer.Option(help="gamma-vae-64 or gamma-vae-128.")],
    dataset_id: DatasetId,
    size: Size = "tiny",
    out: Out = None,
    images: Images = None,
    batch: Batch = None,
    lr: Rate = None,
    micro_batch: MicroBatch = None,
    init: Init = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a Γ-VAE on the training patients of a converted dataset.

    Example: echosynth train-vae --model gamma-vae-64 --dataset-id 501 --size tiny
    """
    from echo_synth import registry, specs
    from echo_synth.data import nnunet_raw
    from echo_synth.training.runs import Settings, run_folder, train_gamma_vae

    spec = specs.vae_model(model)
    device = registry.training_device(device)
    settings = Settings(
        model, size, specs.training_of(spec, size, images=images, batch=batch, lr=lr), seed,
        registry.resolve_precision(precision, device), device, micro_batch, init=init,
    )  # fmt: skip
    dataset = nnunet_raw.find(dataset_id)
    folder = run_folder(settings, dataset.name, out, resume, overwrite)
    resolved = begin("train-vae", {"run": folder, "dataset": dataset.path, **settings.as_dict()}, dry_run)
    best = train_gamma_vae(settings, dataset, folder, resume, resolved)
    _finish(folder, best)


def train(
    model: Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")],
    dataset_id: DatasetId,
    vae: Annotated[Path | None, typer.Option(help="Run folder of the Γ-VAE; default: the newest of its kind.")] = None,
    size: Size = "tiny",
    out: Out = None,
    images: Images = None,
    batch: Batch = None,
    lr: Rate = None,
    micro_batch: MicroBatch = None,
    copies: Annotated[int, typer.Option(min=1, help="Augmented copies of each image whose latents are kept.")] = 6,
    init: Init = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a semantically guided diffusion model.

    Example: echosynth train --model edm-l64 --dataset-id 501 --size tiny
    """
    from echo_synth import registry, specs
    from echo_synth.data import nnunet_raw
    from echo_synth.training.runs import Settings, run_folder, train_diffusion

    spec = specs.diffusion_model(model)
    device = registry.training_device(device)
    settings = Settings(
        model, size, specs.training_of(spec, size, images=images, batch=batch, lr=lr), seed,
        registry.resolve_precision(precision, device), device, micro_batch, copies, init,
    )  # fmt: skip
    dataset = nnunet_raw.find(dataset_id)
    vae_run = registry.find_run(spec.vae, vae) if spec.vae else None
    if vae_run and vae is None:
        say(f"Γ-VAE: {vae_run.folder}")
    folder = run_folder(settings, dataset.name, out, resume, overwrite)
    extra: dict[str, Any] = {"vae": vae_run.folder if vae_run else None}
    resolved = begin("train", {"run": folder, "dataset": dataset.path, **extra, **settings.as_dict()}, dry_run)
    best = train_diffusion(settings, dataset, vae_run, folder, resume, resolved)
    _finish(folder, best)


def _finish(folder: Path, best: Any) -> None:
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in best.items() if k != "images")
    done(f"best validation at {best.get('images', 0):.0f} images: {numbers}", f"run folder: {folder}")
