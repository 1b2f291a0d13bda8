"""The command that makes a generator of one or two evaluations from a trained one: distill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import begin, done, one_of, say, say_how_long, typed
from cli.options import Device, DryRun, Out, Overwrite, Precision, Resume, Seed
from cli.train_commands import Batch, Compile, MicroBatch, Optimizer, Snapshots, announce_unfinished, check_rate

if TYPE_CHECKING:
    from echo_synth.data.nnunet_raw import RawDataset
    from echo_synth.runs.start import RunRequest
    from echo_synth.training.distill import DistillOptions, Teacher
    from echo_synth.training.run import TrainingSettings

_RATE, _LENGTH = 0.3, 8  # of the learning rate that trains this model and, divided by it, of its images
_STAGES = 8  # times that the gap is halved


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("distill")(distill)


def distill(
    teacher: Annotated[Path, typer.Option(help="Run folder of the EDM model to distil: edm, edm-l128 or edm-l64.")],
    dataset_id: Annotated[
        int | None, typer.Option(help="nnU-Net id of the data; default: the dataset that the teacher was trained on.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the teacher was trained with.")] = None,
    out: Out = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Training length in images; default: an eighth of the preset's for train.")
    ] = None,
    batch: Batch = None,
    optimizer: Optimizer = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate; default: 0.3 of what trains such a model.")
    ] = None,
    micro_batch: MicroBatch = None,
    copies: Annotated[
        int | None,
        typer.Option(
            min=1, help="Augmented copies of each image; default: as the teacher's, whose latents are used again."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Targets: teacher (points on the teacher's trajectories), or data (easy consistency tuning)."
        ),
    ] = "teacher",
    sigma_max: Annotated[
        float | None,
        typer.Option(
            help="Noise level at which generation starts; default: 20 at 64 px, in proportion to the side, at most 80."
        ),
    ] = None,
    renoise: Annotated[float, typer.Option(help="Noise level of the second evaluation.")] = 0.8,
    halve_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images after which the gap between noise levels is halved; default: an eighth of all."
        ),
    ] = None,
    snapshots: Snapshots = 0,
    compile: Compile = False,
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Distil a trained model into one that generates an image in one or two evaluations (generate --nfe 1 or 2).

    Example: echosynth distill --teacher runs/edm-l64
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.generation.sources import vae_run
    from echo_synth.runs.folder import open_run
    from echo_synth.runs.start import RunRequest
    from echo_synth.training.distill import DistillOptions, Teacher, default_sigma_max
    from echo_synth.training.run import TrainingSettings

    one_of("--target", target, ("teacher", "data"))
    run = open_run(teacher, "diffusion")
    name, size = run.description.model, run.description.size
    spec = specs.diffusion_model(name)
    preset = specs.training_of(spec, size)
    check_rate(preset, optimizer, lr)
    source = Teacher(run, None)
    source.check()
    source = Teacher(run, vae_run(run, spec.vae, vae))
    dataset = nnunet_raw.find(dataset_id) if dataset_id is not None else source.dataset()
    training = specs.training_of(
        spec,
        size,
        images=images or max(1, preset.images // _LENGTH),
        batch=batch,
        optimizer=optimizer,
        lr=lr or preset.lr * _RATE,
        ema_snapshots=snapshots or None,
    )
    device = training_device(device)
    highest = sigma_max or default_sigma_max(run.description.resolution)
    if not 0 < renoise < highest:
        raise typer.BadParameter(f"{renoise:g}; expected a level between 0 and {highest:g}", param_hint="--renoise")
    options = DistillOptions(
        sigma_max=highest,
        renoise=renoise,
        halve_every=halve_every or max(1, training.images // _STAGES),
        target=target,
    )
    lengths = (micro_batch, copies or source.copies(), None, compile)
    precision = resolve_precision(precision, device)
    settings = TrainingSettings(name, size, training, seed, precision, device, *lengths, source.conditions())
    request = RunRequest("distill", f"{name}_{size}_distilled_{dataset.name}", out, resume, overwrite)
    _distill(settings, options, source, dataset, request, dry_run, own_stages=halve_every is None)


def _distill(
    settings: TrainingSettings,
    options: DistillOptions,
    teacher: Teacher,
    dataset: RawDataset,
    request: RunRequest,
    dry_run: bool,
    own_stages: bool,
) -> None:
    """`own_stages`: halve_every is the default of this length; a run that is lengthened keeps that of its beginning."""
    from echo_synth.data import nnunet_raw
    from echo_synth.generation.request import refuse_other_views
    from echo_synth.runs.find import describe_choice
    from echo_synth.runs.folder import STATE
    from echo_synth.runs.progress import read_state_header
    from echo_synth.training.distill import distill as train_student
    from echo_synth.training.estimate import estimate_distillation
    from echo_synth.training.run import training_folder

    announce_unfinished(request)
    refuse_other_views(teacher.run, dataset)
    with training_folder(request, settings.device, dry_run) as folder:
        if own_stages and request.resume and (folder / STATE).is_file():
            begun = read_state_header(folder).get("identity", {}).get("halve_every", options.halve_every)
            options = options.model_copy(update={"halve_every": begun})
        say(f"teacher: {describe_choice(teacher.run)}")
        cases = nnunet_raw.training_count(dataset)
        say_how_long(
            lambda: estimate_distillation(settings, options, teacher, cases), settings.training.images, dry_run
        )
        places = {"run": folder, "teacher": teacher.run.folder, "dataset": dataset.path}
        shown = {**places, "vae": teacher.vae.folder if teacher.vae else None, **settings.as_dict()}
        resolved = begin("distill", shown | options.model_dump(), dry_run)
        best = train_student(settings, options, dataset, teacher, folder, request.resume, resolved)
    done(
        f"best validation at {best['images']:.0f} images: distance to the teacher's solution {best['distance']:.4g} in "
        f"one evaluation, {best['distance_2']:.4g} in two",
        f"run folder: {folder}; draw with it: echosynth generate --model {settings.model} --nfe 1 --checkpoint {typed(folder)}",
    )
