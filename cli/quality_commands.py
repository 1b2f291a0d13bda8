"""Command that judges a synthetic dataset by itself: quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.as_json import Json, print_report
from cli.common import begin, done, say
from cli.options import Device, DryRun, Overwrite, Seed

if TYPE_CHECKING:
    from echo_synth.evaluation.dataset_quality_results import QualityInputs
    from echo_synth.runs.folder import ClassifierRun

Synthetic = Annotated[int, typer.Option("--dataset-id", help="Id of the synthetic dataset.")]
Real = Annotated[
    int, typer.Option("--real", help="Id of the converted real dataset on which its generator was trained.")
]
Classifier = Annotated[
    Path | None,
    typer.Option(
        help="View classifier trained on the real data, whose features are compared; default: the newest such run."
    ),
]
Features = Annotated[
    bool, typer.Option("--features/--no-features", help="Compare classifier features too, or only pixels.")
]
Predictions = Annotated[
    Path | None,
    typer.Option(help="Folder of masks predicted from the synthetic images by a segmenter trained on --real."),
]
Trainer = Annotated[
    str,
    typer.Option(help="Without --predictions: trainer of a finished segmenter of --real, which then predicts them."),
]
Count = Annotated[int | None, typer.Option(min=2, help="Judge only so many images, spread evenly; default: all.")]
Perceptual = Annotated[
    str | None,
    typer.Option(
        help="Network whose distances measure diversity: efflite0, lpips-vgg, lpips-alex, radimagenet or none; "
        "default: efflite0 where its package is installed."
    ),
]
PerceptualWeights = Annotated[Path | None, typer.Option(help="Weights file for --perceptual; nothing is downloaded.")]
Rate = Annotated[
    float,
    typer.Option(
        min=0.001, max=0.5, help="False-alarm rate: share of unseen real images that would count as near copies."
    ),
]
LowAgreement = Annotated[
    float, typer.Option(min=0, max=1, help="An image is flagged if its mean Dice with the map is below this.")
]
Drop = Annotated[
    int | None, typer.Option(help="Also write the dataset without flagged images under this id; files are not copied.")
]
QualityOut = Annotated[Path | None, typer.Option("--out", help="Default: ECHOSYNTH_HOME/quality/<dataset>.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("quality")(quality)


def quality(
    dataset_id: Synthetic,
    real: Real,
    classifier: Classifier = None,
    features: Features = True,
    predictions: Predictions = None,
    trainer: Trainer = "nnUNetTrainerEchoSynth_cpu",
    count: Count = None,
    perceptual: Perceptual = None,
    perceptual_weights: PerceptualWeights = None,
    rate: Rate = 0.05,
    low_agreement: LowAgreement = 0.7,
    drop: Drop = None,
    out: QualityOut = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Judge a synthetic dataset: feature distances, whether a network tells it from real images, texture, agreement with its maps, copies of training images.

    Example: echosynth quality --dataset-id 601 --real 501
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.device import training_device
    from echo_synth.errors import DataError
    from echo_synth.evaluation.dataset_quality_results import QualityInputs, check_inputs
    from echo_synth.evaluation.image_sets import chosen_cases
    from echo_synth.home import home
    from echo_synth.outputs import check_results
    from echo_synth.report.quality_results import FILES
    from echo_synth.training.perceptual_networks import build_perceptual

    if drop is not None and count is not None:
        raise DataError("--drop needs every image judged; leave out --count")
    synthetic, truth = nnunet_raw.find(dataset_id), nnunet_raw.find(real, "--real")
    folder = (out or home() / "quality" / synthetic.name).absolute()
    check_results(folder, "quality", FILES, overwrite)
    kept = None
    if drop is not None:
        name = f"{synthetic.name[11:]}_kept"
        read = [synthetic.path]
        kept = nnunet_raw.target(drop, name, overwrite, "mix-datasets", read, "--drop", "another --drop")
    perceptual = perceptual or _installed_perceptual(perceptual_weights)
    distance = build_perceptual(perceptual, perceptual_weights)
    inputs = QualityInputs(
        synthetic=synthetic,
        real=truth,
        cases=chosen_cases(synthetic, count),
        classifier=_classifier(classifier, truth.name) if features or classifier else None,
        predictions=predictions,
        perceptual=(perceptual, distance) if distance is not None else None,
        device=training_device(device),
        seed=seed,
        rate=rate,
        low_agreement=low_agreement,
    )
    check_inputs(inputs)
    settings = begin("quality", _settings(inputs, trainer, folder, kept), dry_run)
    numbers = _judge(inputs, (real, trainer), folder, kept, settings, overwrite)
    if as_json:
        print_report("quality", folder, FILES, numbers)
    else:
        _tell(numbers)
        done(f"wrote {folder}: {', '.join(FILES)}")


def _installed_perceptual(weights: Path | None) -> str:
    """What measures diversity where the command names nothing: a network that is a package, if it is here."""
    from echo_synth.training.perceptual_networks import INSTALL, NONE, PACKAGED, is_installed

    if weights is not None or is_installed(PACKAGED):
        return PACKAGED
    say(f"the network of --perceptual {PACKAGED} is not installed: diversity is left out; {INSTALL}")
    return NONE


def _classifier(given: Path | None, trained_on: str) -> ClassifierRun | None:
    from echo_synth.runs.find import newest_classifier
    from echo_synth.runs.folder import open_run

    run = open_run(given, "classifier") if given else newest_classifier(trained_on)
    if run is None:
        say(f"no view classifier of {trained_on}: feature distances are left out")
    return run


def _settings(inputs: QualityInputs, trainer: str, folder: Path, kept: Path | None) -> dict[str, Any]:
    return {
        "dataset": inputs.synthetic.path,
        "real": inputs.real.path,
        "images": len(inputs.cases),
        "classifier": inputs.classifier.folder if inputs.classifier else None,
        "predictions": inputs.predictions,
        "trainer": trainer,
        "perceptual": inputs.perceptual[0] if inputs.perceptual else "none",
        "rate": inputs.rate,
        "low_agreement": inputs.low_agreement,
        "drop": kept,
        "out": folder,
        "seed": inputs.seed,
    }


def _judge(
    inputs: QualityInputs,
    segmenter: tuple[int, str],
    folder: Path,
    kept: Path | None,
    settings: dict[str, Any],
    overwrite: bool,
) -> dict[str, Any]:
    """Measure and write; returns quality.json's numbers. `segmenter` is the dataset and the trainer that predict where no masks are given."""
    from echo_synth.evaluation.dataset_quality_results import judge, write_kept
    from echo_synth.evaluation.segmenter_masks import segmenter_masks
    from echo_synth.report.quality_results import write_quality

    masks = inputs.predictions or segmenter_masks(inputs.synthetic, inputs.cases, *segmenter, folder, inputs.device)
    if masks is None:
        say(f"{segmenter[1]} was not trained on dataset {segmenter[0]}: agreement with the maps is left out")
    judgement = judge(replace(inputs, predictions=masks))
    write_quality(judgement, folder, settings)
    _note_privacy(inputs, judgement.numbers["privacy"])
    if kept is not None:
        left = write_kept(inputs.synthetic, judgement.table, kept, settings, overwrite)
        say(f"kept {left} of {len(judgement.table)} images: {kept}")
    return judgement.numbers


def _tell(numbers: Mapping[str, Any]) -> None:
    from echo_synth.report.quality_tables import quality_rows, recall_rows

    lines = [f"{name}: {value}" for name, value in quality_rows(numbers)]
    recall = [f"  {change}: {share}" for change, _, share in recall_rows(numbers["privacy"])[1:]]
    done(*lines, "planted copies of training images that are found, by change:", *recall)


def _note_privacy(inputs: QualityInputs, measured: Mapping[str, Any]) -> None:
    """Into CARD.md and dataset.json of the dataset, where it has a card; a dataset that cannot be written stays as it is."""
    from echo_synth.data.facts import add_facts
    from echo_synth.errors import EchoSynthError

    kept = {key: measured[key] for key in ("rate", "synthetic", "unseen_real")}
    told = {"real": inputs.real.name, "images": len(inputs.cases), **kept}
    try:
        if add_facts(inputs.synthetic.path, {"privacy": told}):
            say(f"noted near copies in {inputs.synthetic.path / 'CARD.md'}")
    except EchoSynthError as e:
        say(f"near copies are not noted in the dataset's card: {e}")
