"""Commands that judge a dataset: train-classifier, bootstrap-eval, report; and demo, which runs everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import begin, done, say
from cli.options import Device, DryRun, Out, Overwrite, Precision, Resume, Seed


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("train-classifier")(train_classifier)
    app.command("bootstrap-eval")(bootstrap_eval)
    app.command("report")(report)
    app.command("demo")(demo)


def train_classifier(
    images: Annotated[Path, typer.Argument(metavar="DIR", help="Classification folder with train/ and val/.")],
    out: Out = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images; default 250.")] = None,
    resolution: Annotated[int | None, typer.Option(min=32, help="Input size in pixels; default 256.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch; default 16.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default 1e-4.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Local safetensors file to start from; default: from scratch.")
    ] = None,
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
    from echo_synth import registry, specs
    from echo_synth.downstream import classifier
    from echo_synth.home import runs
    from echo_synth.training.folders import claim_folder

    preset = specs.classifier()
    device = registry.training_device(device)
    precision = registry.resolve_precision(precision, device)
    count = sum(1 for _ in (images / "train").glob("*/*.png"))
    training = specs.TrainingSpec(
        images=max(1, count) * (epochs or preset.epochs), batch=batch or preset.batch, optimizer="adam", lr=lr or preset.lr,
        clip_norm=5.0, ema_std=0.0,
    )  # fmt: skip
    folder = claim_folder((out or runs() / f"classifier_{images.resolve().name}").absolute(), resume, overwrite)
    side = resolution or preset.resolution
    settings = begin(
        "train-classifier",
        {"images": images.absolute(), "run": folder, "architecture": preset.architecture, "resolution": side,
         "training": training, "seed": seed, "precision": precision, "device": device, "weights": weights},
        dry_run,
    )  # fmt: skip
    best = classifier.train_classifier(
        images, folder, preset.architecture, side, training, seed, precision, device, resume, settings, weights
    )
    done("best validation: " + ", ".join(f"{k} {v:.4g}" for k, v in best.items()), f"run folder: {folder}")


def bootstrap_eval(
    predictions: Annotated[
        Path | None,
        typer.Option(help="Predicted masks, CASE.nii.gz; default: the newest folder in ECHOSYNTH_HOME/predictions."),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Reference masks; default: the labelsTs of the dataset that holds these cases.")
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="cases.csv; default: beside the references.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Run folder of a view classifier.")] = None,
    images: Annotated[Path | None, typer.Option(help="Classification folder whose test images it judges.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Predictions to compare with, case by case.")] = None,
    repeats: Annotated[int, typer.Option(min=10, help="Bootstrap repeats.")] = 1000,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/evaluation/<name of the predictions>.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Evaluate predictions on held-out real patients, with bootstrap statistics.

    Example: echosynth bootstrap-eval --predictions pred --references $nnUNet_raw/Dataset501_CAMUS/labelsTs
    """
    from echo_synth.downstream import results
    from echo_synth.errors import DataError
    from echo_synth.home import home

    if (classifier is None) != (images is None):
        raise DataError("--classifier and --images belong together; pass both or neither")
    if predictions is None and classifier is None:
        predictions = results.newest_predictions()
    if predictions is not None:
        references = references or results.references_of(predictions)
    name = (predictions or classifier or Path("evaluation")).resolve().name
    folder = (out or home() / "evaluation" / name).absolute()
    settings = begin(
        "bootstrap-eval",
        {"predictions": predictions, "references": references, "cases": cases, "classifier": classifier, "images": images,
         "baseline": baseline, "repeats": repeats, "seed": seed, "out": folder},
        dry_run,
    )  # fmt: skip
    metrics = results.evaluate(
        predictions, references, cases, classifier, images, baseline, repeats, seed, folder, settings
    )
    _print_tables(metrics)
    done(f"wrote {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())))


def _print_tables(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from echo_synth.report import tables

    console = Console()
    titles = (
        (tables.segmentation_rows, "Segmentation"),
        (tables.classification_rows, "View classification"),
        (tables.paired_rows, "Difference to the baseline"),
    )
    for make, title in titles:
        rows = make(metrics)
        if len(rows) > 1:
            table = Table(*rows[0], title=title)
            for row in rows[1:]:
                table.add_row(*row)
            console.print(table)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with evaluations, datasets and runs at any depth.")
    ],
    out: Annotated[Path | None, typer.Option(help="Default: DIR/report.html.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Write one self-contained page with every table and figure below DIR.

    Example: echosynth report echosynth_home
    """
    from echo_synth.errors import DataError
    from echo_synth.files import write_text
    from echo_synth.report.page import build

    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected one with results")
    target = out or folder / "report.html"
    begin("report", {"folder": folder.absolute(), "out": target.absolute()}, dry_run)
    write_text(target, build(folder.absolute()))
    done(f"report: {target}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes; run again to resume.")] = Path(
        "demo_out"
    ),
    minutes: Annotated[float, typer.Option(min=2, help="About how long it may take on two CPU cores.")] = 12.0,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """The whole chain on simulated patients: convert, maps, Γ-VAE, diffusion, images, nnU-Net, classifier, statistics.

    Example: echosynth demo --out demo_out
    """
    from cli.demo import Demo

    settings = begin("demo", {"out": out.absolute(), "minutes": minutes, "seed": seed}, dry_run)
    say(
        "EchoSynth demo: every stage on simulated hearts, small and quick; the numbers show that the chain runs, not how good it can be"
    )
    run = Demo(out.absolute(), minutes, seed)
    metrics = run.run(settings)
    _print_tables(metrics)
    done(*run.lines(), f"report: {out / 'report.html'}")
