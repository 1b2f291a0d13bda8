"""Command that judges a synthetic dataset by itself: quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, say
from cli.options import Device, DryRun, Overwrite, Seed


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("quality")(quality)


def quality(
    dataset_id: Annotated[int, typer.Option("--dataset-id", help="Id of the synthetic dataset.")],
    real: Annotated[int, typer.Option("--real", help="Id of the converted CAMUS dataset it was trained on.")],
    classifier: Annotated[
        Path | None,
        typer.Option(
            help="View classifier trained on the real data; default: the newest run that was. Its features count."
        ),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features/--no-features", help="Look at classifier features too, or at pixels alone.")
    ] = True,
    predictions: Annotated[
        Path | None, typer.Option(help="Masks of the synthetic images by a segmenter trained on the real data.")
    ] = None,
    trainer: Annotated[
        str,
        typer.Option(help="Without --predictions: the trainer of a finished segmenter of --real, which then predicts."),
    ] = "nnUNetTrainerEchoSynth_cpu",
    count: Annotated[int | None, typer.Option(min=2, help="Judge so many images, spread evenly; default: all.")] = None,
    perceptual: Annotated[
        str,
        typer.Option(
            help="Network whose distances measure diversity: efflite0, lpips-vgg, lpips-alex, radimagenet or none."
        ),
    ] = "efflite0",
    perceptual_weights: Annotated[Path | None, typer.Option(help="Local weights of --perceptual.")] = None,
    rate: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of unseen real images that count as copies.")
    ] = 0.05,
    low_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Mean Dice with the map below which an image is flagged.")
    ] = 0.7,
    drop: Annotated[
        int | None, typer.Option(help="Also write the dataset without flagged images, by reference, under this id.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/quality/<dataset>.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Measure a synthetic dataset: feature distances, texture, agreement with its maps, copies of training images.

    Example: echosynth quality --dataset-id 601 --real 501
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.device import training_device
    from echo_synth.errors import DataError
    from echo_synth.evaluation.dataset_quality_results import QualityInputs, judge, write_kept
    from echo_synth.evaluation.image_sets import chosen_cases
    from echo_synth.evaluation.segmenter_masks import segmenter_masks
    from echo_synth.files import check_writable, refuse_existing
    from echo_synth.home import home
    from echo_synth.report.quality_results import write_quality
    from echo_synth.report.quality_tables import quality_rows
    from echo_synth.runs.folder import newest_classifier, open_run
    from echo_synth.training.perceptual_networks import build_perceptual

    if drop is not None and count is not None:
        raise DataError("--drop needs every image judged; leave out --count")
    synthetic, truth, device = nnunet_raw.find(dataset_id), nnunet_raw.find(real), training_device(device)
    kept = (
        nnunet_raw.target(drop, f"{synthetic.name[11:]}_kept", overwrite, "mix-datasets", [synthetic.path])
        if drop is not None
        else None
    )
    run = newest_classifier(truth.name) if features else None
    if classifier is not None:
        run = open_run(classifier, "classifier")
    distance = build_perceptual(perceptual, perceptual_weights)
    folder = (out or home() / "quality" / synthetic.name).absolute()
    refuse_existing(folder / "quality.json", overwrite)
    check_writable(folder)
    cases = chosen_cases(synthetic, count)
    data = {"dataset": synthetic.path, "real": truth.path, "images": len(cases)}
    judges = {"classifier": run.folder if run else None, "predictions": predictions, "trainer": trainer}
    limits = {"perceptual": perceptual, "rate": rate, "low_agreement": low_agreement}
    settings = begin("quality", data | judges | limits | {"drop": kept, "out": folder, "seed": seed}, dry_run)
    if run is None:
        say(f"no view classifier of {truth.name}: feature distances are left out")
    masks = predictions or segmenter_masks(synthetic, cases, real, trainer, folder, device)
    if masks is None:
        say(f"{trainer} was not trained on dataset {real}: agreement with the maps is left out")
    inputs = QualityInputs(
        synthetic=synthetic,
        real=truth,
        cases=cases,
        classifier=run,
        predictions=masks,
        perceptual=(perceptual, distance) if distance is not None else None,
        device=device,
        seed=seed,
        rate=rate,
        low_agreement=low_agreement,
    )
    judgement = judge(inputs)
    write_quality(judgement, folder, settings)
    if kept is not None:
        left = write_kept(synthetic, judgement.table, kept, settings, overwrite)
        say(f"kept {left} of {len(judgement.table)} images: {kept}")
    done(
        *(f"{name}: {value}" for name, value in quality_rows(judgement.numbers)),
        f"wrote {folder}: quality.json, quality.csv, quality.png, nearest.png",
    )
