"""Command that converts any 2-D dataset by its spec: convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import begin, done, say
from cli.data_commands import convert_camus
from cli.options import (
    AllowMissing,
    Classification,
    DatasetId,
    DryRun,
    GridSize,
    Native,
    Overwrite,
    SomePatients,
    Workers,
)
from echo_synth.progress import counted

if TYPE_CHECKING:
    import pandas as pd

CAMUS = "camus"


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("convert")(convert)


def convert(
    spec: Annotated[
        str, typer.Option("--spec", help="YAML file that describes the dataset, or camus: then as convert-camus.")
    ],
    dataset_id: DatasetId,
    src: Annotated[Path | None, typer.Argument(help="Folder of the dataset; default: the folder of the spec.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Dataset name: Dataset<ID>_<NAME>; default: the spec's file name.")
    ] = None,
    size: GridSize = 256,
    native: Native = False,
    split: Annotated[
        str | None, typer.Option(help="Only with --spec camus: as in convert-camus; other specs state their split.")
    ] = None,
    classification: Classification = None,
    patients: SomePatients = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Convert any 2-D dataset that a YAML file describes to nnU-Net's raw format and a classification folder.

    Example: echosynth convert --spec heads/fetal_head.yaml --dataset-id 510
    """
    ways: dict[str, Any] = {"size": size, "native": native, "classification": classification, "patients": patients}
    ways |= {"allow_missing": allow_missing, "overwrite": overwrite, "workers": workers, "dry_run": dry_run}
    if _is_camus(spec):
        if src is None:
            raise typer.BadParameter("missing; --spec camus needs the folder of CAMUS", param_hint="SRC")
        convert_camus(src, dataset_id, name or "CAMUS", split=split, **ways)
        return
    if split is not None:
        raise typer.BadParameter(f"'{split}'; it is a key of {spec}, change it there", param_hint="--split")
    _convert(Path(spec), src, dataset_id, name, **ways)


def _is_camus(spec: str) -> bool:
    """The short name, or the file of this package that describes CAMUS's two releases."""
    from echo_synth import specs

    own = specs.root() / "camus.yaml"
    return spec == CAMUS or (Path(spec).is_file() and Path(spec).resolve() == own.resolve())


def _convert(
    spec: Path,
    src: Path | None,
    dataset_id: int,
    name: str | None,
    size: int,
    native: bool,
    classification: Path | None,
    patients: int | None,
    allow_missing: bool,
    overwrite: bool,
    workers: int | None,
    dry_run: bool,
) -> None:
    from echo_synth.data import convert_spec, nnunet_raw
    from echo_synth.data.convert import convert
    from echo_synth.data.dataset_spec import read_dataset_spec
    from echo_synth.folders import check_apart, check_target
    from echo_synth.home import classification as classification_home

    file = read_dataset_spec(spec)
    source, made_by = (src or spec.parent).absolute(), convert_spec.MADE_BY
    target = nnunet_raw.target(dataset_id, name or spec.stem, overwrite, made_by, [source])
    folder = classification.absolute() if classification else classification_home() / target.name
    check_target(folder, made_by, overwrite, [source], "another --classification")
    check_apart([folder, target])
    plan = convert_spec.plan_spec(source, file, allow_missing, patients)
    grid = None if native else size
    places = {"source": source, "spec_file": spec.absolute(), "dataset": target, "classification": folder}
    counts = {"patients": len(plan.split_of), "cases": len(plan.jobs), "missing": plan.missing}
    settings = begin("convert", {**places, "size": grid, "spec": file.spec, **counts}, dry_run)
    origin = convert_spec.origin_of_spec(file)
    table = convert(plan.jobs, target, folder, grid, settings, overwrite, workers, [source], origin, say)
    for note in plan.notes:
        say(note)
    done(*_told(table, file.spec.title), f"nnU-Net raw dataset: {target}", f"classification folder: {folder}")


def _told(table: pd.DataFrame, title: str) -> tuple[str, ...]:
    per_split = table["split"].value_counts()
    parts = ", ".join(f"{per_split.get(s, 0)} {s}" for s in ("train", "val", "test"))
    return (f"{title}: {counted(len(table), 'image')} of {counted(table['patient'].nunique(), 'patient')}: {parts}",)
