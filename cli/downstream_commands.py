"""Commands that judge a dataset: nnU-Net, the view classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, say
from cli.options import DatasetId, Device, DryRun, Out, Overwrite, Precision, Resume, Seed


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("train-segmenter")(train_segmenter)
    app.command("predict-segmenter")(predict_segmenter)
    app.command("train-classifier")(train_classifier)


Trainer = Annotated[
    str,
    typer.Option(
        "--trainer",
        help="nnUNetTrainerEchoSynth (the paper's budget), …_25epochs, …_cpu (the standard short one), …_cpu256, …_smoke.",
    ),
]


def train_segmenter(
    dataset_id: DatasetId,
    trainer: Trainer = "nnUNetTrainerEchoSynth",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the trainer's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="An epoch; instead of the trainer's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Makes the training repeatable; slower, augmentation shares its process.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Add horizontal flips, which swap the heart's sides.")] = False,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Plan, preprocess and train nnU-Net on a raw dataset; run again to resume. The same as nnU-Net's own commands.

    Example: echosynth train-segmenter --dataset-id 601 --trainer nnUNetTrainerEchoSynth_cpu
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.device import training_device
    from echo_synth.downstream import nnunet
    from echo_synth.errors import ExistsError
    from echo_synth.files import read_json, write_json

    dataset, device = nnunet_raw.find(dataset_id), training_device(device)
    given = {"EPOCHS": epochs, "ITERATIONS": iterations, "SEED": seed, "FLIP": int(flip) or None}
    extra = {f"ECHOSYNTH_NNUNET_{k}": str(v) for k, v in given.items() if v is not None}
    folder = nnunet.trained_folder(dataset_id, trainer)
    settings = begin(
        "train-segmenter",
        {"dataset": dataset.path, "trainer": trainer, "folder": folder, "device": device, "environment": extra},
        dry_run,
    )
    log = folder / "echosynth.log"
    nnunet.check_trainer(trainer)
    planned, known = nnunet.is_planned(dataset_id), folder / "settings.json"
    if (folder / nnunet.FINAL).is_file():
        if known.is_file() and read_json(known) != settings:
            raise ExistsError(
                f"{folder} holds a finished training with other settings; remove it or choose another --trainer"
            )
        if not planned:
            raise ExistsError(
                f"{folder} was trained on an earlier {dataset.name}; remove it, or give the dataset another id"
            )
    if not planned:
        say(f"planning and preprocessing {dataset.name}")
        nnunet.plan_and_preprocess(dataset_id, log)
    write_json(known, settings)
    nnunet.train(dataset_id, trainer, log, device, extra)
    done(f"weights: {folder / nnunet.FINAL}", f"nnU-Net's output: {log}")


def predict_segmenter(
    dataset_id: Annotated[int, typer.Option("--dataset-id", help="Dataset the segmenter was trained on.")],
    images: Annotated[
        Path, typer.Option(help="Folder of CASE_0000.nii.gz, e.g. imagesTs of the converted CAMUS dataset.")
    ],
    trainer: Trainer = "nnUNetTrainerEchoSynth",
    out: Annotated[Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/predictions/<dataset>__<trainer>.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Segment a folder of images with a trained nnU-Net. The same as nnUNetv2_predict.

    Example: echosynth predict-segmenter --dataset-id 601 --images $nnUNet_raw/Dataset501_CAMUS/imagesTs
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.device import training_device
    from echo_synth.downstream import nnunet
    from echo_synth.files import write_json
    from echo_synth.home import home

    dataset, device = nnunet_raw.find(dataset_id), training_device(device)
    target = out or home() / "predictions" / f"{dataset.name}__{trainer}"
    settings = begin(
        "predict-segmenter",
        {"dataset": dataset.path, "trainer": trainer, "images": images.absolute(), "out": target, "device": device},
        dry_run,
    )
    log = nnunet.trained_folder(dataset_id, trainer) / "echosynth.log"
    nnunet.predict(dataset_id, trainer, images, target, log, device, overwrite)
    write_json(target / "settings.json", settings)
    done(f"wrote {target}: {len(list(target.glob('*.nii.gz')))} segmentations")


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
    from echo_synth import specs
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.downstream import classifier
    from echo_synth.home import runs
    from echo_synth.runs.start import check_run_folder

    preset = specs.classifier()
    device = training_device(device)
    precision = resolve_precision(precision, device)
    count = sum(1 for _ in (images / "train").glob("*/*.png"))
    training = specs.TrainingSpec(
        images=max(1, count) * (epochs or preset.epochs), batch=batch or preset.batch, optimizer="adam", lr=lr or preset.lr,
        clip_norm=5.0, ema_std=0.0,
    )  # fmt: skip
    folder = check_run_folder((out or runs() / f"classifier_{images.resolve().name}").absolute(), resume, overwrite)
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
