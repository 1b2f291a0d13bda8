"""Which run a command uses: the one it is given, else the newest finished one, else the bundled one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echo_synth import specs
from echo_synth.errors import DataError, RunError
from echo_synth.home import runs
from echo_synth.runs.description import DiffusionDescription
from echo_synth.runs.folder import (
    DESCRIPTION,
    WEIGHTS,
    ClassifierRun,
    DiffusionRun,
    Run,
    VaeRun,
    file_hash,
    open_run,
    read_description,
)
from echo_synth.runs.progress import Progress, progress_of

DISTILLED_NFE = (1, 2)  # evaluations that a distilled run can take


def newest_run(model: str, trained_on: str | None = None) -> Run | None:
    """The finished run of `model` below ECHOSYNTH_HOME/runs whose weights are the most recent, or None.

    Args:
        trained_on: name of a dataset; only runs trained on it count.
    """
    finished = [run for run, progress in _runs_of(model, trained_on) if progress is None or progress.finished]
    return _newest(finished)


def _newest(candidates: list[Run]) -> Run | None:
    return max(candidates, key=lambda run: run.weights.stat().st_mtime) if candidates else None


def _runs_of(model: str, trained_on: str | None) -> Iterator[tuple[Run, Progress | None]]:
    """Runs of `model` with weights, and how far their training is; damaged ones are left out."""
    for file in sorted(runs().glob(f"*/{WEIGHTS}")):
        try:
            run, progress = open_run(file.parent), progress_of(file.parent)
        except (RunError, DataError):
            continue
        if _is_plain(run, model) and trained_on in (None, run.description.trained_on):
            yield run, progress


def _is_plain(run: Run, model: str) -> bool:
    """A run of `model` that was not distilled: distilled ones are drawn with where they are named, never by themselves."""
    return run.description.model == model and getattr(run.description, "distilled", None) is None


def describe_choice(run: Run) -> str:
    """The folder of a run that was chosen, and the images that it saw, as far as its state tells."""
    progress = progress_of(run.folder)
    return f"{run.folder}" if progress is None else f"{run.folder} ({progress})"


def newest_classifier(trained_on: str) -> ClassifierRun | None:
    """The most recent finished view classifier that was trained on the dataset of that name, or None."""
    run = newest_run("classifier", trained_on)
    return open_run(run.folder, "classifier") if run else None


def bundled_run(model: str) -> Run | None:
    """The phantom-trained weights that come with the package, or None if there are none; NAME-few: distilled ones."""
    folder = specs.root() / "bundled" / model
    return open_run(folder) if (folder / DESCRIPTION).is_file() else None


def find_run(model: str, folder: Path | None = None, nfe: int | None = None) -> Run:
    """`folder`, else the newest finished run of `model`, else the bundled one.

    Args:
        nfe: network evaluations per image: for one or two, the bundled weights are the distilled ones.
            None: always the plain weights.

    Raises RunError when there is none, or only unfinished ones.
    """
    if folder is not None:
        run = open_run(folder)
        if run.description.model != model:
            raise RunError(f"{folder}: holds {run.description.model}, expected {model}")
        return run
    newest = newest_run(model)
    if newest is None:
        _refuse_unfinished(model)
    few = bundled_run(f"{model}-few") if nfe in DISTILLED_NFE else None
    chosen = newest or few or bundled_run(model)
    if chosen is None:
        raise RunError(
            f"no run of {model} in {runs()} and none bundled; run 'echosynth {_command(model)} --model {model} …'"
        )
    return chosen


def _refuse_unfinished(model: str) -> None:
    unfinished = dict(_runs_of(model, None))
    run = _newest(list(unfinished))
    if run is not None:
        option = "--vae" if model in specs.VAE_MODELS else "--checkpoint"
        raise RunError(
            f"{run.folder}: the only run of {model} is {unfinished[run]}; finish it with "
            f"'echosynth {_command(model)} --resume …', or name the weights to use with {option}"
        )


def _command(model: str) -> str:
    return "train-vae" if model in specs.VAE_MODELS else "train"


def find_diffusion(model: str, folder: Path | None = None, nfe: int | None = None) -> DiffusionRun:
    """`find_run` of a diffusion model."""
    run = find_run(model, folder, nfe)
    if not isinstance(run, DiffusionRun):
        raise RunError(f"{run.folder}: holds a {run.description.kind} model, expected a diffusion model")
    return run


def find_vae(model: str, folder: Path | None = None) -> VaeRun:
    """The Γ-VAE for a diffusion model's latents: any VAE of that grid in `folder`, else as `find_run`."""
    if folder is None:
        run = find_run(model)
        return open_run(run.folder, "vae")
    run, wanted = open_run(folder, "vae"), specs.vae_model(model).latent_resolution
    if run.description.latent_resolution != wanted:
        raise RunError(
            f"--vae {folder}: its latents are {run.description.latent_resolution} px wide, expected {wanted}; "
            f"use a {model}"
        )
    return run


def vae_for_training(vae_model: str | None, folder: Path | None, resumed: Path | None) -> VaeRun | None:
    """The Γ-VAE whose latents a training learns: the one in `folder`, the one that `resumed` began with, else `find_vae`.

    Args:
        vae_model: its model; None for a model on pixels.
        resumed: run folder that is continued.
    """
    if vae_model is None:
        return None
    if folder is None and resumed is not None and (resumed / DESCRIPTION).is_file():
        description = read_description(resumed)
        if isinstance(description, DiffusionDescription):
            return find_vae_of(description, vae_model, resumed)
    return find_vae(vae_model, folder)


def find_vae_of(description: DiffusionDescription, vae_model: str, beside: Path) -> VaeRun:
    """The Γ-VAE whose latents a diffusion run was trained on, found by the hash of its weights.

    Looked for beside the run (its siblings), among the runs and in the bundle. Raises RunError
    when none has that hash.
    """
    wanted = description.vae
    candidates = [beside / "vae", *sorted(beside.parent.glob(f"*/{DESCRIPTION}")), *runs().glob(f"*/{DESCRIPTION}")]
    folders = [c if c.is_dir() else c.parent for c in candidates]
    folders.append(specs.root() / "bundled" / vae_model)
    for folder in folders:
        if _hash_of(folder / WEIGHTS) == wanted:
            return open_run(folder, "vae")
    raise RunError(f"{beside}: its Γ-VAE (weights {wanted}) is in no run folder; pass --vae with its folder")


def _hash_of(weights: Path) -> str | None:
    """`file_hash`; None where there are none, or of another user who keeps them to himself."""
    try:
        return file_hash(weights) if weights.is_file() else None
    except PermissionError:
        return None
