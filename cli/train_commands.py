"""Commands that make generators: train-vae, train, average-weights, import-edmlx."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import begin, done, one_of, say, say_how_long
from cli.options import DatasetId, Device, DryRun, Out, Overwrite, Precision, Resume, Seed, Size

if TYPE_CHECKING:
    from echo_synth.runs.start import RunRequest
    from echo_synth.specs import DiffusionSpec, TrainingSpec, VaeSpec
    from echo_synth.training.run import TrainingSettings, VaeOptions

Images = Annotated[
    int | None, typer.Option("--images", min=1, help="Training length in images; default: the preset's.")
]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Global batch; default: the preset's.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate; default: the preset's.")]
Optimizer = Annotated[
    str | None,
    typer.Option(
        "--optimizer", help="muon, adamw, adam or sgd; default: the preset's. Another one needs its own --lr."
    ),
]
DecoderFinish = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Images on which, at the end, only the decoder is tuned to the mean E[z], which generation decodes; 0: as in the paper. Default: the preset's.",
    ),
]
Init = Annotated[Path | None, typer.Option("--init", help="Run folder with the weights to start from (fine-tuning).")]
SoftMaps = Annotated[
    bool | None,
    typer.Option(
        "--soft-maps/--hard-maps",
        help="Maps as shares of tissues per cell of the network's grid, or by nearest neighbour as in the paper. Default: the preset's.",
    ),
]
Phase = Annotated[
    bool | None,
    typer.Option(
        "--phase/--no-phase",
        help="Condition on the phase (end-diastole, end-systole) as well as the view. Default: the preset's.",
    ),
]
MapInput = Annotated[
    bool | None,
    typer.Option(
        "--map-input/--spade-only",
        help="The map enters as input channels and through SPADE, or only through SPADE as in the paper. Default: the preset's.",
    ),
]
MapLoss = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Weight of the map loss: the error of a small segmenter that predicts the map from denoised images (ControlNet++); 0: as in the paper. Default: the preset's.",
    ),
]
Start = Annotated[
    Path | None,
    typer.Option("--init", help="Run folder with the weights to start from; EDM-L128 may start from EDM-L64."),
]
Snapshots = Annotated[
    int,
    typer.Option(
        min=0, help="Snapshots to keep, from which average-weights can make a longer or shorter average (EMA) later."
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Pass the network through torch.compile (slow to start).")]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        "--micro-batch",
        min=1,
        help="Images in memory at once; the batch is accumulated from these. Default: on a GPU the whole batch, on a CPU"
        " the pixels of eight 256 x 256 images.",
    ),
]
Posterior = Annotated[
    str, typer.Option(help="gamma, or gaussian: the standard KL-VAE of the same size, for comparison.")
]
LatentChannels = Annotated[
    int,
    typer.Option(min=1, max=16, help="Channels of the latent; with more than one it need not look like the image."),
]
Kl = Annotated[
    str | None,
    typer.Option(
        help="Direction of the KL divergence: prior-posterior (the paper's; default of gamma) or posterior-prior (the usual ELBO's; default of gaussian)."
    ),
]
Prior = Annotated[Path | None, typer.Option(help="gamma_prior.json of fit-prior; default: the paper's Γ(3.75, 10.8).")]
Perceptual = Annotated[
    str | None,
    typer.Option(
        help="Network of the perceptual loss: efflite0, lpips-vgg, lpips-alex, radimagenet or none; default: the preset's."
    ),
]
PerceptualWeights = Annotated[
    Path | None, typer.Option(help="Weights file of the perceptual network; nothing is downloaded.")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("train-vae")(train_vae)
    app.command("train")(train)
    app.command("average-weights")(average_weights)
    app.command("import-edmlx")(import_edmlx)


def train_vae(
    model: Annotated[str, typer.Option(help="gamma-vae-64 or gamma-vae-128.")],
    dataset_id: DatasetId,
    size: Size = "tiny",
    out: Out = None,
    images: Images = None,
    batch: Batch = None,
    lr: Rate = None,
    optimizer: Optimizer = None,
    micro_batch: MicroBatch = None,
    posterior: Posterior = "gamma",
    latent_channels: LatentChannels = 1,
    kl: Kl = None,
    prior: Prior = None,
    perceptual: Perceptual = None,
    perceptual_weights: PerceptualWeights = None,
    decoder_finish: DecoderFinish = None,
    init: Init = None,
    snapshots: Snapshots = 0,
    compile: Compile = False,
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a Γ-VAE on the training patients of a converted dataset.

    Example: echosynth train-vae --model gamma-vae-64 --dataset-id 501 --size tiny
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.evaluation.latent_prior import read_prior
    from echo_synth.runs.description import vae_name
    from echo_synth.runs.start import RunRequest
    from echo_synth.training.run import TrainingSettings, VaeOptions
    from echo_synth.vae.gamma import DIRECTIONS
    from echo_synth.vae.posterior import POSTERIOR_FAMILIES

    spec = specs.vae_model(model)
    device = training_device(device)
    chosen = {"images": images, "batch": batch, "ema_snapshots": snapshots or None}
    training = specs.training_of(
        spec, size, perceptual=perceptual, decoder_finish=decoder_finish, **chosen, **_steps(spec, size, optimizer, lr)
    )
    precision = resolve_precision(precision, device)
    settings = TrainingSettings(model, size, training, seed, precision, device, micro_batch, init=init, compile=compile)
    family = one_of("--posterior", posterior, POSTERIOR_FAMILIES)
    direction = one_of("--kl", kl, DIRECTIONS) if kl else None
    options = VaeOptions(family, direction, read_prior(prior) if prior else None, perceptual_weights, latent_channels)
    stem = f"{vae_name(model, family, latent_channels)}_{size}_{nnunet_raw.find(dataset_id).name}"
    _train_vae(settings, options, dataset_id, RunRequest("train-vae", stem, out, resume, overwrite), dry_run)


def _steps(
    spec: VaeSpec | DiffusionSpec, size: str, optimizer: str | None, lr: float | None
) -> dict[str, str | float | None]:
    """Optimiser and learning rate where they are not the preset's. Raises typer.BadParameter for a rate of another optimiser."""
    from echo_synth import specs

    check_rate(specs.training_of(spec, size), optimizer, lr)
    return {"optimizer": optimizer, "lr": lr}


def check_rate(preset: TrainingSpec, optimizer: str | None, lr: float | None) -> None:
    """Raise typer.BadParameter for an optimiser that does not exist, or one without a rate of its own."""
    from echo_synth import specs

    if optimizer and one_of("--optimizer", optimizer, specs.OPTIMIZERS) != preset.optimizer and lr is None:
        raise typer.BadParameter(
            f"the preset's {preset.lr:g} is a rate of {preset.optimizer}; pass --lr with --optimizer {optimizer}",
            param_hint="--lr",
        )


def _train_vae(
    settings: TrainingSettings, options: VaeOptions, dataset_id: int, request: RunRequest, dry_run: bool
) -> None:
    from echo_synth.data import nnunet_raw
    from echo_synth.training.estimate import estimate_vae
    from echo_synth.training.run import train_gamma_vae, training_folder

    dataset = nnunet_raw.find(dataset_id)
    description = options.describe(settings.model, settings.size)
    announce_unfinished(request)
    _refuse_init_that_is_replaced(settings, request)
    with training_folder(request, settings.device, dry_run) as folder:
        say_how_long(lambda: estimate_vae(settings, options, description), settings.training.images, dry_run)
        shown = {"run": folder, "dataset": dataset.path, **settings.as_dict(), **asdict(options)}
        resolved = begin("train-vae", shown | {"direction": options.resolved_direction()}, dry_run)
        best = train_gamma_vae(settings, options, dataset, folder, request.resume, resolved)
    _finish(folder, best)


def _refuse_init_that_is_replaced(settings: TrainingSettings, request: RunRequest) -> None:
    """Raise typer.BadParameter where a training would replace the run that it begins with; killed, it could not go on."""
    if settings.init and request.out and settings.init.resolve() == request.out.resolve():
        raise typer.BadParameter(
            f"{settings.init} is the run folder of --out too; choose another --out", param_hint="--init"
        )


def train(
    model: Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")],
    dataset_id: DatasetId,
    vae: Annotated[Path | None, typer.Option(help="Run folder of the Γ-VAE; default: the newest that fits.")] = None,
    size: Size = "tiny",
    out: Out = None,
    images: Images = None,
    batch: Batch = None,
    lr: Rate = None,
    optimizer: Optimizer = None,
    micro_batch: MicroBatch = None,
    copies: Annotated[int, typer.Option(min=1, help="Augmented copies of each image; their latents are stored.")] = 6,
    soft_maps: SoftMaps = None,
    phase: Phase = None,
    map_input: MapInput = None,
    map_loss: MapLoss = None,
    init: Start = None,
    snapshots: Snapshots = 0,
    compile: Compile = False,
    seed: Seed = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a diffusion model that is guided by condition maps.

    Example: echosynth train --model edm-l64 --dataset-id 501 --size tiny
    """
    from echo_synth import specs
    from echo_synth.data import nnunet_raw
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.runs.description import describe_diffusion
    from echo_synth.runs.find import describe_choice, vae_for_training
    from echo_synth.runs.start import RunRequest
    from echo_synth.training.estimate import estimate_diffusion
    from echo_synth.training.run import TrainingSettings, train_diffusion, training_folder

    spec = specs.diffusion_model(model)
    device = training_device(device)
    training = specs.training_of(
        spec,
        size,
        images=images,
        batch=batch,
        ema_snapshots=snapshots or None,
        map_loss=map_loss,
        **_steps(spec, size, optimizer, lr),
    )
    precision = resolve_precision(precision, device)
    conditions = specs.conditions_of(spec, size, soft_maps=soft_maps, phase=phase, map_input=map_input)
    lengths = (micro_batch, copies, init, compile)
    settings = TrainingSettings(model, size, training, seed, precision, device, *lengths, conditions)
    dataset = nnunet_raw.find(dataset_id)
    request = RunRequest("train", f"{model}_{size}_{dataset.name}", out, resume, overwrite)
    announce_unfinished(request)
    _refuse_init_that_is_replaced(settings, request)
    with training_folder(request, device, dry_run) as folder:
        vae_run = vae_for_training(spec.vae, vae, folder if resume else None)
        if vae_run:
            say(f"Γ-VAE: {describe_choice(vae_run)}")
        extra = {"vae": vae_run.folder if vae_run else None}
        cases = nnunet_raw.training_count(dataset)
        channels = vae_run.description.network.latent_channels if vae_run else 1
        description = describe_diffusion(model, size, None, conditions, channels)
        say_how_long(lambda: estimate_diffusion(settings, description, cases), training.images, dry_run)
        resolved = begin("train", {"run": folder, "dataset": dataset.path, **extra, **settings.as_dict()}, dry_run)
        best = train_diffusion(settings, dataset, vae_run, folder, resume, resolved)
    _finish(folder, best)


def average_weights(
    run: Annotated[Path, typer.Argument(help="Run folder that was trained with --snapshots.")],
    std: Annotated[float, typer.Option(min=0.01, max=0.25, help="Width of the average, as a share of the training.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Choose the length of the weights' average after training (Karras et al. 2024), without training again.

    Example: echosynth average-weights runs/edm-l64 --std 0.1 --out runs/edm-l64-ema10
    """
    from echo_synth.folders import check_target
    from echo_synth.runs.folder import open_run
    from echo_synth.training.posthoc import AVERAGED, write_average

    source = open_run(run)
    check_target(out.absolute(), AVERAGED, overwrite, [run], "another --out")
    resolved = begin(AVERAGED, {"run": run, "std": std, "out": out}, dry_run)
    step = write_average(source, std, out.absolute(), overwrite, resolved)
    done(f"average of width {std} at step {step}", f"run folder: {out}")


def import_edmlx(
    file: Annotated[Path, typer.Argument(help="The authors' .pth (Γ-VAE) or .pkl (diffusion network).")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    vae: Annotated[Path | None, typer.Option(help="Run folder of the Γ-VAE that a latent model belongs to.")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="JSON file of network settings that the weights' shapes do not show.")
    ] = None,
    precond: Annotated[
        str | None, typer.Option(help="EDMPrecond, VEPrecond, VPPrecond or iDDPMPrecond, for bare state dicts.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Turn weights of the paper's authors into a run folder, without executing anything in the file.

    Example: echosynth import-edmlx network-snapshot.pkl --out runs/edm-l64-paper --vae runs/vae-paper
    """
    import json

    from echo_synth.compat import importing
    from echo_synth.folders import check_target
    from echo_synth.runs.folder import DESCRIPTION, WEIGHTS, open_run

    if precond is not None:
        one_of("--precond", precond, importing.PRECONDS)
    given = importing.read_settings(settings) if settings else None
    vae_run = open_run(vae, "vae") if vae else None
    inputs = [p for p in (file, vae, settings) if p is not None]
    check_target(out.absolute(), importing.MADE_BY, overwrite, inputs, "another --out")
    options = {"file": file, "out": out, "vae": vae, "settings": given, "precond": precond}
    resolved = begin(importing.MADE_BY, options, dry_run)
    description = importing.import_edmlx(file, out.absolute(), given, precond, vae_run, overwrite, resolved)
    done(
        f"{description.model}: {json.dumps(description.as_json()['network'])}",
        f"wrote {out}/{WEIGHTS} and {DESCRIPTION}",
    )
    if description.kind == "diffusion" and description.model.startswith("edm-l") and vae_run is None:
        done("this model draws latents: import its Γ-VAE too and pass it here with --vae, or to generate")


def announce_unfinished(request: RunRequest) -> None:
    """Name the unfinished run that a new one would stand beside."""
    from echo_synth.runs.start import unfinished_runs

    if request.out is not None or request.resume:
        return
    for folder, progress in unfinished_runs(request.stem).items():
        say(f"{folder} is {progress}; --resume continues it. This is a new run.")


def _finish(folder: Path, best: Any) -> None:
    from echo_synth.files import read_json
    from echo_synth.runs.folder import DESCRIPTION

    start = read_json(folder / DESCRIPTION).get("init")
    if start:
        say(f"started from weights of {start['model']}: {start['share']:.0%} of the parameters")
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in best.items() if k != "images")
    done(f"best validation at {best.get('images', 0):.0f} images: {numbers}", f"run folder: {folder}")
