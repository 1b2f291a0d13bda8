"""The command that trains the view classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, say_how_long
from cli.options import Device, DryRun, Out, Overwrite, Precision, Resume, Seed


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("train-classifier")(train_classifier)


def train_classifier(
    images: Annotated[Path, typer.Argument(metavar="DIR", help="Classification folder with train/ and val/.")],
    out: Out = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images; default 250.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=32, help="Input size in pixels, 512 at most; default 256.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per batch, 2 or more; default 16.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default 1e-4.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Local safetensors file to start from; default: from scratch.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Run folder of another view classifier to start from.")] = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train the EfficientNetV2-S view classifier on a classification folder.

    Example: echosynth train-classifier echosynth_home/datasets/classification/Dataset601_EDM-L64_nfe20
    """
    from echo_synth import specs
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.downstream import classifier
    from echo_synth.home import runs
    from echo_synth.runs.start import RunRequest, choose_run_folder

    if init is not None and weights is not None:
        raise typer.BadParameter(f"'{init}'; --weights is given too: expected one of them", param_hint="--init")
    classifier.check_pictures(images)
    preset = specs.classifier()
    device = training_device(device)
    precision = resolve_precision(precision, device)
    count = sum(1 for _ in (images / "train").glob("*/*.png"))
    training = specs.TrainingSpec(
        images=max(1, count) * (epochs or preset.epochs),
        batch=batch or preset.batch,
        optimizer="adam",
        lr=preset.lr if lr is None else lr,
        clip_norm=5.0,
        ema_std=0.0,
    )
    target = out or runs() / f"classifier_{images.resolve().name}"
    request = RunRequest("train-classifier", target.name, target, resume, overwrite)
    folder = choose_run_folder(request)
    settings = classifier.ClassifierSettings(
        preset.architecture, resolution or preset.resolution, training, seed, precision, device, weights, init
    )
    if not resume:
        say_how_long(lambda: classifier.estimate_classifier(settings), training.images, dry_run)
    resolved = begin(
        "train-classifier",
        {
            "images": images.absolute(),
            "run": folder,
            "architecture": settings.architecture,
            "resolution": settings.resolution,
            "training": training,
            "seed": seed,
            "precision": precision,
            "device": device,
            "weights": weights,
            "init": init,
        },
        dry_run,
    )
    best = classifier.train_classifier(images, request, settings, resolved)
    done("best validation: " + ", ".join(f"{k} {v:.4g}" for k, v in best.items()), f"run folder: {folder}")
