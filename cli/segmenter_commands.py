"""Commands that train and apply nnU-Net: train-segmenter, predict-segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import begin, done, say, say_how_long
from cli.options import DatasetId, Device, DryRun, Overwrite

if TYPE_CHECKING:
    from echo_synth.data.nnunet_raw import RawDataset


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("train-segmenter")(train_segmenter)
    app.command("predict-segmenter")(predict_segmenter)


Trainer = Annotated[
    str,
    typer.Option(
        "--trainer",
        help="nnUNetTrainerEchoSynth (the paper's budget), …_25epochs, …_cpu (the standard short one), …_cpu_adam, …_cpu_pooled, …_cpu256, …_smoke.",
    ),
]


def train_segmenter(
    dataset_id: DatasetId,
    trainer: Trainer = "nnUNetTrainerEchoSynth",
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs; default: the trainer's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Iterations per epoch; default: the trainer's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed that makes the training repeatable; default: none.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from: folder or checkpoint of another finished training with the same network."
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Augment with horizontal flips, which swap the heart's sides.")
    ] = False,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Plan, preprocess and train nnU-Net on a raw dataset; run again to resume. The same as nnU-Net's own commands.

    Example: echosynth train-segmenter --dataset-id 601 --trainer nnUNetTrainerEchoSynth_cpu
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.device import training_device
    from echo_synth.downstream import nnunet, segmenter

    dataset, device = nnunet_raw.find(dataset_id), training_device(device)
    settings = segmenter.SegmenterSettings(epochs, iterations, seed, flip)
    nnunet.check_trainer(trainer)
    start = segmenter.read_initial(init, dataset) if init else None
    segmenter.check_training(dataset, trainer, settings.environment(), start)
    images = segmenter.training_images(trainer, settings)
    if dry_run:
        _say_guess(dataset, trainer, images, device)
    resolved = begin(
        "train-segmenter",
        {
            "dataset": dataset.path,
            "trainer": trainer,
            "folder": nnunet.trained_folder(dataset_id, trainer),
            "device": device,
            "environment": settings.environment(),
            "init": start.record() if start else None,
        },
        dry_run,
    )
    if not nnunet.is_planned(dataset_id):
        say(f"planning and preprocessing {dataset.name}")
        segmenter.prepare(dataset, trainer)
    say_how_long(lambda: segmenter.estimate_segmenter(dataset, trainer, settings, device), images, dry_run=False)
    folder = segmenter.train_segmenter(dataset, trainer, settings, device, resolved, start)
    done(f"weights: {folder / nnunet.FINAL}", f"nnU-Net's output: {segmenter.log_file(dataset, trainer)}")


def _say_guess(dataset: RawDataset, trainer: str, seen: int, device: str) -> None:
    """What a dry run can tell: a training step is measured once the dataset is planned, which a dry run does not do."""
    from echo_synth.data import nnunet_raw
    from echo_synth.estimate import format_bytes
    from echo_synth.experiment.estimate import guess_segmenter
    from echo_synth.progress import format_seconds

    expected = guess_segmenter(trainer, seen, nnunet_raw.training_count(dataset), device)
    disk, memory = format_bytes(expected.disk_bytes), format_bytes(expected.memory_bytes)
    needs = f"about {format_seconds(expected.seconds)}, {disk} of disk, {memory} of memory"
    say(f"estimate: {needs} (a guess, from what an image took on another machine)")


def predict_segmenter(
    dataset_id: Annotated[
        int, typer.Option("--dataset-id", help="Id of the dataset on which the segmenter was trained.")
    ],
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

    Example: echosynth predict-segmenter --dataset-id 601 --trainer nnUNetTrainerEchoSynth_cpu --images $nnUNet_raw/Dataset501_CAMUS/imagesTs
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.device import training_device
    from echo_synth.downstream import segmenter
    from echo_synth.home import home

    dataset, device = nnunet_raw.find(dataset_id), training_device(device)
    target = out or home() / "predictions" / f"{dataset.name}__{trainer}"
    if dry_run:  # else predict_segmenter does
        segmenter.check_prediction(dataset, trainer, images, target, overwrite)
    resolved = begin(
        "predict-segmenter",
        {
            "dataset": dataset.path,
            "trainer": trainer,
            "images": images.absolute(),
            "out": target,
            "device": device,
        },
        dry_run,
    )
    count = segmenter.predict_segmenter(dataset_id, trainer, images, target, device, overwrite, resolved)
    done(f"wrote {target}: {count} segmentations")
