"""Command that judges models on held-out real patients: bootstrap-eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.as_json import Json, print_report
from cli.common import begin, done, one_of, say
from cli.options import DryRun, Overwrite, Seed

if TYPE_CHECKING:
    from echo_synth.evaluation.inputs import Inputs
    from echo_synth.evaluation.results import Metrics
    from echo_synth.evaluation.statistics import Resampling
    from echo_synth.evaluation.views import ViewResult

METHODS: tuple[Literal["bca", "percentile"], ...] = ("bca", "percentile")


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("bootstrap-eval")(bootstrap_eval)


def bootstrap_eval(
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of predicted masks, CASE.nii.gz. For several trainings of one kind repeat the option, or name a folder of such "
            "folders (gen0_seg1 in a name gives the seeds of generator and segmenter). Default: the newest in ECHOSYNTH_HOME/predictions."
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Folder of reference masks; default: those of the images that predict-segmenter was given, or labelsTs of "
            "the one dataset with these cases."
        ),
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="cases.csv; default: beside the references.")] = None,
    native: Annotated[
        Path | None,
        typer.Option(
            help="Also evaluate on the images' own grid: folder of CAMUS, or of the labels of convert-camus --native."
        ),
    ] = None,
    classifier: Annotated[Path | None, typer.Option(help="Run folder of a view classifier.")] = None,
    images: Annotated[Path | None, typer.Option(help="Classification folder; its test images are classified.")] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Predictions to compare with, case by case; repeat the option for more baselines."),
    ] = None,
    baseline_seed: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=DIR: predictions of one training of the baseline NAME; repeat the option for more trainings or baselines."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=10, max=100_000, help="Bootstrap repeats.")] = 1000,
    interval: Annotated[str, typer.Option(help="Bootstrap intervals over patients: bca or percentile.")] = "bca",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/evaluation/<name of the predictions>.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Evaluate predictions on held-out real patients, with bootstrap statistics.

    Example: echosynth bootstrap-eval --predictions pred --references $nnUNet_raw/Dataset501_CAMUS/labelsTs
    """
    from echo_synth.evaluation.inputs import resolve_inputs
    from echo_synth.evaluation.statistics import Resampling
    from echo_synth.home import home
    from echo_synth.report.evaluation import check_evaluation

    resampling = Resampling(repeats, seed, one_of("--interval", interval, METHODS))
    judged = resolve_inputs(predictions or (), references, cases, native, classifier, images, baseline, baseline_seed)
    folder = (out or home() / "evaluation" / judged.name).absolute()
    given = judged.settings() | {"repeats": repeats, "interval": interval, "seed": seed, "out": folder}
    settings = begin("bootstrap-eval", given, dry_run)
    if judged.judges_references:
        say(f"note: {judged.references} is both predictions and references, so every score is perfect")
    check_evaluation(folder, settings, overwrite)
    metrics = _evaluate(judged, resampling, folder, settings)
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    if as_json:
        print_report("bootstrap-eval", folder, files, {k: v for k, v in metrics.items() if k != "settings"})
    else:
        _print_tables(metrics)
        done(f"wrote {folder}: " + ", ".join(files))


def _evaluate(judged: Inputs, resampling: Resampling, folder: Path, settings: dict[str, Any]) -> Metrics:
    from echo_synth.evaluation.segmentation import evaluate_segmentation
    from echo_synth.report.evaluation import write_evaluation

    masks = views = None
    if judged.classifier is not None and judged.images is not None:
        views = _judge_views(judged.classifier, judged.images, resampling)
    if judged.references is not None:
        masks = evaluate_segmentation(
            judged.predictions, judged.references, resampling, judged.baselines, judged.case_facts, judged.native
        )
    return write_evaluation(folder, settings, masks, judged.references, views)


def _judge_views(classifier: Path, images: Path, resampling: Resampling) -> ViewResult:
    """Apart, because torch takes seconds to import and masks do not need it."""
    from echo_synth.device import training_device
    from echo_synth.evaluation.views import evaluate_views
    from echo_synth.runs.folder import open_run

    return evaluate_views(open_run(classifier, "classifier"), images, training_device("auto"), resampling)


def _print_tables(metrics: Metrics) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from echo_synth.report import tables

    console = Console()
    for section in tables.sections(metrics):
        table = Table(title=Text(section.title))  # Text, as names of folders may look like rich's markup
        for heading in section.rows[0]:
            table.add_column(Text(heading))
        for row in section.rows[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
