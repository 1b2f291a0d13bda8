"""Command that takes synthetic images of other programs in: import-images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import begin, done, one_of, say
from cli.options import DryRun, Overwrite, Workers
from echo_synth.progress import counted

if TYPE_CHECKING:
    from echo_synth.data.nnunet_raw import RawDataset
    from echo_synth.foreign.plan import ImportPlan

Spacing = Annotated[
    str | None,
    typer.Option(help="mm per pixel: 0.6, or 0.5,0.6 for down and across; default: from --table or --real."),
]
LabelValues = Annotated[
    str,
    typer.Option(
        help="Meaning of the mask values: auto; camus (1 cavity, 2 myocardium, 3 atrium); sector (1, 3, 4, and 2 other tissue); "
        "tissues (1, 2, 3, and 4 other tissue); or VALUE=TISSUE,… with our tissues 0 to 4."
    ),
]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("import-images")(import_images)


def import_images(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with samples/ and labels/, with images/ and a folder of masks, or with NAME_gt.png."
        ),
    ],
    dataset_id: Annotated[int | None, typer.Option(help="nnU-Net id; default: the next free from 601.")] = None,
    name: Annotated[str, typer.Option(help="Dataset name: Dataset<ID>_<NAME>.")] = "Imported",
    real: Annotated[
        int | None,
        typer.Option(
            "--real",
            help="Id of the converted real dataset: its test patients are refused, its splits and spacing are used.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="CSV with what file names do not tell: image, view, phase; patient, split, spacing_…_mm."),
    ] = None,
    spacing: Spacing = None,
    labels: LabelValues = "auto",
    background: Annotated[
        int,
        typer.Option(min=0, max=254, help="If masks have no sector: grey levels up to this count as outside it."),
    ] = 0,
    images: Annotated[
        str | None, typer.Option(help="Name of the folder with the images, if not one of the usual names.")
    ] = None,
    masks: Annotated[str | None, typer.Option(help="Name of the folder with the masks.")] = None,
    model: Annotated[str, typer.Option(help="What generated the images, for manifest and card.")] = "foreign",
    nfe: Annotated[int | None, typer.Option(min=1, max=10000, help="Network evaluations per image, if known.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Training data of the generator: camus, simulated, other or unknown; default: as --real, else by file names."
        ),
    ] = None,
    classification: Annotated[
        Path | None, typer.Option(help="Classification folder to write; default: below ECHOSYNTH_HOME.")
    ] = None,
    drop_held_out: Annotated[
        bool, typer.Option("--drop-held-out", help="Leave out images of held-out patients instead of refusing all.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images without mask and masks without image.")
    ] = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Import PNG images with masks from another generator into nnU-Net's raw format and a classification folder.

    Example: echosynth import-images ./results_2CH_ED --real 501 --name SDM --model sdm --nfe 1000
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.data.sources import sources
    from echo_synth.data.subject import need_heart
    from echo_synth.folders import check_apart, check_target
    from echo_synth.foreign import importing
    from echo_synth.foreign.labels import choose_labels
    from echo_synth.foreign.layout import find_pairs
    from echo_synth.foreign.plan import Asked, plan_import
    from echo_synth.generation.targets import FIRST_ID
    from echo_synth.home import classification as classification_home

    if source is not None:
        one_of("--source", source, tuple(sources()))
    truth = nnunet_raw.find(real, "--real") if real is not None else None
    if truth is not None:
        need_heart(truth.subject, f"--real {real}", "images of such datasets cannot be imported yet")
    read = [folder, *([table] if table else []), *([truth.path] if truth else [])]
    number = nnunet_raw.next_free_id(FIRST_ID) if dataset_id is None else dataset_id
    target = nnunet_raw.target(number, name, overwrite, importing.MADE_BY, read)
    pictures = (classification or classification_home() / target.name).absolute()
    check_target(pictures, importing.MADE_BY, overwrite, read, "another --classification")
    check_apart([pictures, target])
    asked = Asked(table, _spacing(spacing), truth, drop_held_out, allow_missing)
    plan = plan_import(find_pairs(folder, images, masks), asked)
    meaning = choose_labels(labels, [pair.mask for pair in plan.pairs])
    origin = importing.Origin(model, nfe, source or _source(truth, plan), meaning, background)
    settings = begin(
        "import-images",
        {
            **{"source": folder.absolute(), "dataset": target, "classification": pictures, "table": table},
            **{"real": truth.path if truth else None, "images": len(plan.pairs), "labels": meaning.name},
            **{
                "spacing": asked.spacing,
                "background": background,
                "model": model,
                "nfe": nfe,
                "learnt_from": origin.source,
            },
        },
        dry_run,
    )
    made = importing.import_images(plan, origin, target, pictures, settings, overwrite, workers, read)
    for note in plan.notes:
        say(note)
    done(
        f"{counted(len(made), 'image')} of {counted(made['patient'].nunique(), 'patient')}; labels read as {meaning.name}",
        f"nnU-Net raw dataset: {target}",
        f"classification folder: {pictures}",
    )


def _spacing(text: str | None) -> tuple[float, float] | None:
    """(row, column) of "0.6" or "0.5,0.6". Raises typer.BadParameter (exit code 2)."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(1e-3 <= n <= 100 for n in numbers):
        raise typer.BadParameter(
            f"'{text:.40}'; expected mm a pixel such as 0.6, or 0.5,0.6 down and across", param_hint="--spacing"
        )
    return numbers[0], numbers[-1]


def _source(real: RawDataset | None, plan: ImportPlan) -> str:
    """Where nobody says it: the real dataset's origin, or CAMUS where images are named after its patients."""
    from echo_synth import specs
    from echo_synth.data.facts import origin_of_dataset
    from echo_synth.data.sources import CAMUS, UNKNOWN

    if real is not None:
        return origin_of_dataset(real.path)
    named = plan.rows["patient"].str.fullmatch(specs.camus().patient_pattern)
    return CAMUS if bool(named.any()) else UNKNOWN
