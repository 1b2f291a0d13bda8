"""Commands that make data: convert-camus, phantom, make-maps, fit-prior, mix-datasets, env."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from echo_synth.data.camus import CamusDatabase

from cli.common import begin, done, say
from cli.options import DatasetId, DryRun, Overwrite, Seed


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("convert-camus")(convert_camus)
    app.command("phantom")(phantom)
    app.command("make-maps")(make_maps)
    app.command("mix-datasets")(mix_datasets)
    app.command("env")(env)


def convert_camus(
    src: Annotated[
        Path, typer.Argument(help="CAMUS: the folder with database_nifti/, or the patient folders' parent.")
    ],
    dataset_id: DatasetId,
    name: Annotated[str, typer.Option(help="Dataset name: Dataset<ID>_<NAME>.")] = "CAMUS",
    size: Annotated[int, typer.Option(min=16, max=4096, help="Square grid in pixels; millimetres stay true.")] = 256,
    native: Annotated[bool, typer.Option("--native", help="Keep every image's own grid instead of --size.")] = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="'official', or a folder with CAMUS's three subgroup files; default: SRC's own, else official."
        ),
    ] = None,
    classification: Annotated[
        Path | None, typer.Option(help="Folder for the classification copy; default below ECHOSYNTH_HOME.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out incomplete cases and patients that only one side knows.")
    ] = False,
    overwrite: Overwrite = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Convert CAMUS (NIfTI or .mhd release) to nnU-Net's raw format and a classification folder.

    Example: echosynth convert-camus ~/CAMUS --dataset-id 501
    """
    from echo_synth.data import camus, convert, nnunet_raw
    from echo_synth.home import classification as classification_home

    target = nnunet_raw.target(dataset_id, name, overwrite)
    folder = classification or classification_home() / target.name
    database, split_of, split_source = _database_and_split(src, split, allow_missing)
    cases = [c for c in camus.find_cases(database, allow_missing) if c.id.patient in split_of]
    jobs = [
        convert.ConvertJob(c, split_of[c.id.patient], camus.read_info(database.patients[c.id.patient], c.id.view))
        for c in cases
    ]
    grid = None if native else size
    places = {"source": src.absolute(), "dataset": target, "classification": folder}
    counts = {"patients": len(split_of), "cases": len(jobs), "missing": database.missing}
    settings = begin("convert-camus", {**places, "size": grid, "split": split_source, **counts}, dry_run)
    table = convert.convert(jobs, target, folder, grid, settings, overwrite, workers, [src])
    per_split = table["split"].value_counts()
    if database.missing:
        say(f"left out {len(database.missing)} incomplete case(s), listed in settings.json")
    done(
        f"{len(table)} cases of {table['patient'].nunique()} patients: "
        + ", ".join(f"{per_split.get(s, 0)} {s}" for s in ("train", "val", "test")),
        f"nnU-Net raw dataset: {target}",
        f"classification folder: {folder}",
    )


def _database_and_split(src: Path, split: str | None, allow_missing: bool) -> tuple[CamusDatabase, dict[str, str], str]:
    """CAMUS on disk, the split of each patient, and where the split came from."""
    from echo_synth import specs
    from echo_synth.data import camus

    database = camus.find_database(src)
    folder = Path(split) if split not in (None, "official") else database.split_folder if split is None else None
    lists = specs.read_split(folder) if folder else specs.official_split()
    source = str(folder or "the official split")
    return database, camus.assign_splits(database.patients, lists, allow_missing, source), source


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to make: OUT/database_nifti and OUT/database_split.")],
    patients: Annotated[int, typer.Option(min=1, max=9999, help="How many.")] = 40,
    seed: Seed = 0,
    release: Annotated[str, typer.Option(help="File layout: nifti (current CAMUS) or mhd (older).")] = "nifti",
    overwrite: Overwrite = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Make a CAMUS-shaped dataset of simulated hearts: images, masks, cfg files, splits.

    Example: echosynth phantom ./phantom --patients 40 --seed 1
    """
    from echo_synth.phantom import write_phantom

    settings = begin(
        "phantom", {"out": out.absolute(), "patients": patients, "seed": seed, "release": release}, dry_run
    )
    write_phantom(out, patients, seed, release, settings, overwrite, workers)
    done(
        f"{patients} phantom patients in {out}",
        f"next: echosynth convert-camus {out} --dataset-id 501 --split {out}/database_split",
    )


def make_maps(
    dataset_id: DatasetId,
    repeats: Annotated[int | None, typer.Option(min=1, help="Transformations of each mask; default 5.")] = None,
    seed: Seed = 0,
    patients: Annotated[
        str | None, typer.Option(help="Comma-separated patient ids; default: all of training and validation.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: ECHOSYNTH_HOME/maps/<dataset>.")] = None,
    overwrite: Overwrite = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Draw condition maps: training and validation masks x random affine and elastic transformations.

    Example: echosynth make-maps --dataset-id 501 --repeats 5 --seed 0
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.data.maps import make_maps, select_sources
    from echo_synth.home import maps as maps_home

    dataset = nnunet_raw.find(dataset_id)
    spec = specs.maps().model_copy(update={"repeats": repeats} if repeats else {})
    folder = out or maps_home() / dataset.name
    wanted = [p.strip() for p in patients.split(",")] if patients else None
    sources = select_sources(dataset, wanted)
    settings = begin(
        "make-maps",
        {"dataset": dataset.path, "out": folder, "seed": seed, "transformations": spec, "masks": len(sources)},
        dry_run,
    )
    index = make_maps(dataset, sources, folder, spec, seed, settings, overwrite, workers)
    done(f"{len(index)} condition maps of {len(sources)} masks in {folder}")


def mix_datasets(
    real: Annotated[int, typer.Option("--real", help="Id of the converted CAMUS dataset.")],
    dataset_id: Annotated[int, typer.Option("--dataset-id", help="Id of the mixture, 1 to 999.")],
    synthetic: Annotated[
        list[int] | None, typer.Option("--synthetic", help="Id of a synthetic dataset; repeat the option for several.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Part of the training images that is synthetic, whatever the sizes; default 0.5, 0 without."),
    ] = None,
    patients: Annotated[int | None, typer.Option(min=1, help="Real training patients; default: all.")] = None,
    name: Annotated[str, typer.Option(help="Dataset name: Dataset<ID>_<NAME>.")] = "MIX",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Real and synthetic cases in one nnU-Net dataset, without copying a file; validation stays real.

    Example: echosynth mix-datasets --real 501 --synthetic 601 --share 0.5 --dataset-id 701
    """
    from echo_synth.data import mix, nnunet_raw

    target = nnunet_raw.target(dataset_id, name, overwrite)
    first, others = nnunet_raw.find(real), [nnunet_raw.find(i) for i in synthetic or ()]
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
    """Print export lines for nnU-Net: its folders, our trainer, worker counts.

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
