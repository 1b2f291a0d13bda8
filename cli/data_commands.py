"""Commands that make data: convert-camus, phantom, make-maps, mix-datasets; and env."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import begin, done, say, typed
from cli.options import (
    AllowMissing,
    Classification,
    DatasetId,
    DryRun,
    GridSize,
    Native,
    Overwrite,
    Seed,
    SomePatients,
    Workers,
)
from echo_synth.progress import counted


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("convert-camus")(convert_camus)
    app.command("phantom")(phantom)
    app.command("make-maps")(make_maps)
    app.command("mix-datasets")(mix_datasets)
    app.command("env")(env)


def convert_camus(
    src: Annotated[
        Path,
        typer.Argument(help="CAMUS: the folder that contains database_nifti/, or the one with the patient folders."),
    ],
    dataset_id: DatasetId,
    name: Annotated[str, typer.Option(help="Dataset name: Dataset<ID>_<NAME>.")] = "CAMUS",
    size: GridSize = 256,
    native: Native = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="'official', or a folder with CAMUS's three subgroup files; default: SRC's own, else official."
        ),
    ] = None,
    classification: Classification = None,
    patients: SomePatients = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Convert CAMUS (NIfTI or .mhd release) to nnU-Net's raw format and a classification folder.

    Example: echosynth convert-camus ~/CAMUS --dataset-id 501
    """
    from echo_synth.data import convert, nnunet_raw
    from echo_synth.folders import check_apart, check_target
    from echo_synth.home import classification as classification_home

    target = nnunet_raw.target(dataset_id, name, overwrite, convert.MADE_BY, [src])
    folder = classification.absolute() if classification else classification_home() / target.name
    check_target(folder, convert.MADE_BY, overwrite, [src], "another --classification")
    check_apart([folder, target])
    plan = convert.plan(src, split, allow_missing, patients)
    grid = None if native else size
    places = {"source": src.absolute(), "dataset": target, "classification": folder}
    counts = {"patients": len(plan.split_of), "cases": len(plan.jobs), "missing": plan.missing}
    settings = begin("convert-camus", {**places, "size": grid, "split": plan.split_source, **counts}, dry_run)
    table = convert.convert(plan.jobs, target, folder, grid, settings, overwrite, workers, [src], tell=say)
    for note in plan.notes:
        say(note)
    per_split = table["split"].value_counts()
    done(
        f"{counted(len(table), 'case')} of {counted(table['patient'].nunique(), 'patient')}: "
        + ", ".join(f"{per_split.get(s, 0)} {s}" for s in ("train", "val", "test")),
        f"nnU-Net raw dataset: {target}",
        f"classification folder: {folder}",
    )


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to make: OUT/database_nifti and OUT/database_split.")],
    patients: Annotated[int, typer.Option(min=1, max=9999, help="Number of patients.")] = 40,
    seed: Seed = 0,
    release: Annotated[str, typer.Option(help="File layout: nifti (current CAMUS) or mhd (older).")] = "nifti",
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Make a dataset of simulated hearts in CAMUS's layout: images, masks, cfg files, splits.

    The cfg files state the heart's own ejection fraction; CAMUS's convention gives 6 to 11 points less.

    Example: echosynth phantom ./phantom --patients 40 --seed 1
    """
    from echo_synth.folders import check_target
    from echo_synth.phantom import write_phantom

    check_target(out.absolute(), "phantom", overwrite, hint="another folder")
    settings = begin(
        "phantom", {"out": out.absolute(), "patients": patients, "seed": seed, "release": release}, dry_run
    )
    write_phantom(out, patients, seed, release, settings, overwrite, workers)
    done(
        f"{counted(patients, 'phantom patient')} in {out}",
        f"next: echosynth convert-camus {typed(out)} --dataset-id {_free_id()} --split {typed(out / 'database_split')}",
    )


def _free_id() -> int:
    """An id for the conversion to come: 501, or the next one that is free; 501 too where all are taken, which convert-camus then says."""
    from echo_synth.data import nnunet_raw
    from echo_synth.errors import DataError

    try:
        return nnunet_raw.next_free_id(501)
    except DataError:
        return 501


def make_maps(
    dataset_id: DatasetId,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Maps per mask; the mean if ejection fractions (EF) are balanced; default 5."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="paper, anatomy (both phases get the same deformation, heart shapes are kept, EF is balanced), or a YAML file."
        ),
    ] = "paper",
    seed: Seed = 0,
    patients: Annotated[
        str | None, typer.Option(help="Comma-separated patient ids; default: all of training and validation.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/maps/<dataset>.")] = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Make condition maps: training and validation masks after random affine and elastic deformations.

    Example: echosynth make-maps --dataset-id 501 --repeats 5 --seed 0
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.data.card import KEY
    from echo_synth.data.maps import MADE_BY, check_recipe, make_maps, select_sources
    from echo_synth.folders import check_target
    from echo_synth.home import maps as maps_home

    dataset = nnunet_raw.find(dataset_id)
    if KEY in nnunet_raw.describe(dataset):
        say(f"{dataset.name} is synthetic: its labels are condition maps already, and are deformed a second time")
    spec = specs.maps(recipe).model_copy(update={"repeats": repeats} if repeats else {})
    check_recipe(dataset.subject, spec)
    folder = out or maps_home() / dataset.name
    check_target(folder, MADE_BY, overwrite, [dataset.path], "another --out")
    wanted = [p.strip() for p in patients.split(",")] if patients else None
    sources = select_sources(dataset, wanted)
    masks = {"masks": len(sources)}
    settings = begin(
        "make-maps",
        {"dataset": dataset.path, "out": folder, "seed": seed, "recipe": recipe, "transformations": spec, **masks},
        dry_run,
    )
    index = make_maps(dataset, sources, folder, spec, seed, settings, overwrite, workers)
    if "source_ef" in index:
        swapped = sorted(set(index.loc[index["source_ef"] < 0, "patient"]))
        if swapped:
            say(
                f"{len(swapped)} patient(s) have a negative ejection fraction by their masks ({swapped[0]}): are ED and ES swapped?"
            )
    done(f"{counted(len(index), 'condition map')} of {counted(len(sources), 'mask')} in {folder}")


def mix_datasets(
    real: Annotated[int, typer.Option("--real", help="Id of the converted real dataset.")],
    dataset_id: Annotated[int, typer.Option("--dataset-id", help="Id of the mixture, 1 to 999.")],
    synthetic: Annotated[
        list[int] | None, typer.Option("--synthetic", help="Id of a synthetic dataset; repeat the option for several.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of synthetic images in training, whatever the dataset sizes; default 0.5, or 0 without --synthetic."
        ),
    ] = None,
    patients: Annotated[int | None, typer.Option(min=1, help="Real training patients; default: all.")] = None,
    name: Annotated[str, typer.Option(help="Dataset name: Dataset<ID>_<NAME>.")] = "MIX",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Put real and synthetic cases into one nnU-Net dataset, without copying a file; validation stays real.

    Example: echosynth mix-datasets --real 501 --synthetic 601 --share 0.5 --dataset-id 701
    """
    from echo_synth.data import mix, nnunet_raw

    first, others = nnunet_raw.find(real, "--real"), [nnunet_raw.find(i, "--synthetic") for i in synthetic or ()]
    target = nnunet_raw.target(dataset_id, name, overwrite, mix.MADE_BY, [d.path for d in (first, *others)])
    parts = mix.shares(first, others, (0.5 if others else 0.0) if share is None else share)
    table = mix.plan(first, others, patients, seed)
    sources = {"real": first.name, "synthetic": [d.name for d in others]}
    recipe = {"sampling": parts, "patients": patients, "seed": seed}
    settings = begin("mix-datasets", {"dataset": target, **sources, **recipe}, dry_run)
    mix.write(target, table, parts, [first, *others], settings, overwrite)
    counts = table[table["split"] == "train"]["source"].value_counts()
    done(
        "training cases: "
        + ", ".join(f"{counts[s]} of {s}, drawn for {p:.0%} of the images" for s, p in parts.items()),
        f"validation: {(table['split'] == 'val').sum()} real cases",
        f"nnU-Net raw dataset: {target}",
    )


def env() -> None:
    """Print shell lines that set ECHOSYNTH_HOME and nnU-Net's folders, our trainers and numbers of processes.

    Example: eval "$(echosynth env)"
    """
    import shlex

    from echo_synth.home import NNUNET_FOLDERS, home, nnunet_folder, plugin_folder
    from echo_synth.parallel import available_cores

    cores = available_cores()
    values: dict[str, object] = {"ECHOSYNTH_HOME": home()}
    values |= {name: nnunet_folder(name) for name in NNUNET_FOLDERS}
    values |= {"nnUNet_extTrainer": plugin_folder()}
    values |= {"nnUNet_n_proc_DA": max(1, min(12, cores // 2)), "nnUNet_def_n_proc": max(1, min(8, cores // 2))}
    if cores <= 4:  # worker processes and the training loop share the cores; more threads only collide
        values["OMP_NUM_THREADS"] = max(1, cores - 1)
    for name, value in values.items():
        typer.echo(f"export {name}={shlex.quote(str(value))}")
