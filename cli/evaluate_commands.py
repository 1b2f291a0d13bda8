"""Command that judges models on held-out real patients: bootstrap-eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.common import begin, done, one_of
from cli.options import DryRun, Seed

if TYPE_CHECKING:
    from echo_synth.evaluation.results import Metrics
    from echo_synth.evaluation.statistics import Resampling
    from echo_synth.evaluation.views import ViewResult

METHODS: tuple[Literal["bca", "percentile"], ...] = ("bca", "percentile")


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("bootstrap-eval")(bootstrap_eval)


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
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Predictions to compare with, case by case; repeat the option for several."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=10, help="Bootstrap repeats.")] = 1000,
    interval: Annotated[str, typer.Option(help="Form of the patient-level intervals: bca or percentile.")] = "bca",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/evaluation/<name of the predictions>.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Evaluate predictions on held-out real patients, with bootstrap statistics.

    Example: echosynth bootstrap-eval --predictions pred --references $nnUNet_raw/Dataset501_CAMUS/labelsTs
    """
    from echo_synth.errors import DataError
    from echo_synth.evaluation import inputs
    from echo_synth.home import home

    one_of("--interval", interval, METHODS)
    if (classifier is None) != (images is None):
        raise DataError("--classifier and --images belong together; pass both or neither")
    if predictions is None and classifier is None:
        predictions = inputs.newest_predictions()
    if predictions is not None:
        references = references or inputs.references_of(predictions)
    name = (predictions or classifier or Path("evaluation")).resolve().name
    given = {
        "predictions": predictions,
        "references": references,
        "cases": cases,
        "classifier": classifier,
        "images": images,
        "baseline": baseline,
        "repeats": repeats,
        "interval": interval,
        "seed": seed,
        "out": (out or home() / "evaluation" / name).absolute(),
    }
    _evaluate(given, begin("bootstrap-eval", given, dry_run))


def _evaluate(given: dict[str, Any], settings: dict[str, Any]) -> None:
    """Judge what is `given` (options by name), write the folder, print its tables."""
    from echo_synth.evaluation import inputs
    from echo_synth.evaluation.segmentation import evaluate_segmentation
    from echo_synth.evaluation.statistics import Resampling
    from echo_synth.files import check_writable
    from echo_synth.report.evaluation import write_evaluation

    predictions, references, folder = given["predictions"], given["references"], given["out"]
    resampling = Resampling(given["repeats"], given["seed"], given["interval"])
    check_writable(folder)
    masks = views = None
    if predictions is not None:
        case_facts = inputs.read_case_facts(given["cases"], references)
        baselines = inputs.named_folders(given["baseline"] or ())
        masks = evaluate_segmentation(predictions, references, resampling, baselines, case_facts)
    if given["classifier"] is not None:
        views = _judge_views(given["classifier"], given["images"], resampling)
    _print_tables(write_evaluation(folder, settings, masks, references, views))
    done(f"wrote {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())))


def _judge_views(classifier: Path, images: Path, resampling: Resampling) -> ViewResult:
    """Apart, because torch takes seconds to import and masks do not need it."""
    from echo_synth.device import training_device
    from echo_synth.evaluation.views import evaluate_views
    from echo_synth.runs.folder import open_run

    return evaluate_views(open_run(classifier, "classifier"), images, training_device("auto"), resampling)


def _print_tables(metrics: Metrics) -> None:
    from rich.console import Console
    from rich.table import Table

    from echo_synth.report import tables

    console = Console()
    for section in tables.sections(metrics):
        table = Table(*section.rows[0], title=section.title)
        for row in section.rows[1:]:
            table.add_row(*row)
        console.print(table)
