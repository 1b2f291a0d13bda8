"""A training from end to end: data, network, engine, run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echo_synth import checksums, specs
from echo_synth.data.augment import ColourRanges, GeometricRanges
from echo_synth.data.facts import origin_of_dataset
from echo_synth.data.leakage import refuse_patients_of
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.prepared import Prepared, prepare
from echo_synth.errors import RunError
from echo_synth.runs.data import TrainingData
from echo_synth.runs.description import (
    DescriptionT,
    InitialWeights,
    VaeDescription,
    build_model,
    describe_diffusion,
    describe_vae,
)
from echo_synth.runs.folder import VaeRun, open_run
from echo_synth.runs.start import RunRequest, check_resumable, choose_run_folder, hold_run_folder, start_run
from echo_synth.specs import Conditions, TrainingSpec
from echo_synth.training.distributed import main_first, on_main, process_count
from echo_synth.training.finish import FinishSettings, finish_decoder, undo_finish
from echo_synth.training.latents import FieldRecipe, kept_fields
from echo_synth.training.loop import Engine
from echo_synth.training.map_reader import train_reader
from echo_synth.training.perceptual_networks import build_perceptual
from echo_synth.training.tasks.diffusion import DiffusionTask, Fields
from echo_synth.training.tasks.vae import VaeTask
from echo_synth.training.texture import write_texture
from echo_synth.training.transfer import start_from
from echo_synth.vae.codec import Codec, build_codec
from echo_synth.vae.gamma import Direction
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.posterior import PosteriorFamily

# A left-right flip shows an anatomy that no probe orientation of CAMUS produces; the paper flips
# all the same. At the small sizes, capacity goes to the anatomy that is asked for.
_FLIP = {"tiny": 0.0, "small": 0.0}
_CPU_PIXELS = 8 * 256 * 256  # in a pass, see `images_at_once`
_IMAGES_PER_VALIDATION = 500


@dataclass(frozen=True)
class VaeOptions:
    """What only a VAE's training can be asked for.

    Attributes:
        posterior: "gamma", or "gaussian" for the standard KL-VAE of the same size.
        direction: of the KL; None is the paper's for Γ, the usual ELBO's for the twin.
        prior: shape and rate of the Γ prior; None is the preset's.
        perceptual_weights: file of the perceptual network, where it is not a package's.
        latent_channels: of E[z]; several are not held to look like the image, see `vae_loss`.
    """

    posterior: PosteriorFamily = "gamma"
    direction: Direction | None = None
    prior: tuple[float, float] | None = None
    perceptual_weights: Path | None = None
    latent_channels: int = 1

    def describe(self, model: str, size: str) -> VaeDescription:
        """The new VAE that is asked for."""
        return describe_vae(model, size, self.posterior, self.prior, self.latent_channels)

    def resolved_direction(self) -> Direction:
        return self.direction or ("prior-posterior" if self.posterior == "gamma" else "posterior-prior")


@dataclass(frozen=True)
class TrainingSettings:
    """Resolved settings of one training run."""

    model: str
    size: str
    training: TrainingSpec
    seed: int
    precision: str
    device: str
    micro_batch: int | None = None
    copies: int = 1
    init: Path | None = None
    compile: bool = False
    conditions: Conditions = field(default_factory=Conditions)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"training": self.training.model_dump(), "conditions": self.conditions.model_dump()}

    def augmentation(self) -> GeometricRanges:
        return GeometricRanges(flip=_FLIP.get(self.size, 0.5))


def run_engine(
    settings: TrainingSettings,
    module: nn.Module,
    task: VaeTask | DiffusionTask,
    folder: Path,
    resume: bool,
    identity: Mapping[str, Any],
) -> Mapping[str, float]:
    """Train `module` on `task`, or go on, in `folder`; returns the best validation's numbers."""
    module.to(settings.device).to(memory_format=memory_format(settings.device, settings.compile))
    parts = [getattr(module, name) for name in ("encoder", "decoder", "network") if hasattr(module, name)]
    engine = Engine(
        module,
        task.loss,
        task.validate,
        settings.training,
        folder,
        settings.seed,
        identity,
        precision=settings.precision,
        device=settings.device,
        preview=task.preview,
        micro_batch=images_at_once(settings),
        compiled=parts if settings.compile else (),
        validations=validations(settings.training.images),
    )
    return engine.run(resume)


def validations(images: int) -> int:
    """How often a training of that length validates: twenty times if long. In a short one, validating and drawing pictures
    would take a third of the time (as much as training on about 65 images each)."""
    return min(20, max(4, images // _IMAGES_PER_VALIDATION))


def images_at_once(settings: TrainingSettings) -> int | None:
    """Images that pass through the network together; None: the whole batch.

    On a CPU, where the user sets nothing, as many as have the pixels of eight 256 x 256 images: larger activations are
    taken from the system and given back at every operation (forward and backward of EDM tiny, channels last: 2.2 images a second for 1.4).
    """
    if settings.micro_batch or settings.device != "cpu":
        return settings.micro_batch
    return max(1, _CPU_PIXELS // specs.model(settings.model).resolution ** 2)


def memory_format(device: str, compiled: bool = False) -> torch.memory_format:
    """Layout to train in: channels last for tensor cores, and where torch.compile writes the GroupNorms (EDM-L64 tiny on
    a CPU: 1.28 times the images a second); plain on a CPU otherwise, where the backward pass of torch's own
    channels-last GroupNorm takes thirty times that of a contiguous one."""
    return torch.channels_last if compiled or device.startswith("cuda") else torch.contiguous_format


def run_identity(settings: TrainingSettings, data: str, **more: Any) -> dict[str, Any]:
    """What a resumed run must share with its beginning; checked before anything is touched.

    Raises RunError when the batch does not divide over the processes.
    """
    world = process_count()
    if settings.training.batch % world:
        raise RunError(f"batch {settings.training.batch} does not divide over {world} processes; choose a multiple")
    start = open_run(settings.init).hash() if settings.init else None
    named = {"model": settings.model, "size": settings.size, **more, "data": data}
    lengths = settings.training.model_dump(exclude={"decoder_finish"})  # comes after; a run can be finished later
    return named | {"copies": settings.copies, "init": start, **lengths, "seed": settings.seed}


def new_network(description: DescriptionT, settings: TrainingSettings) -> tuple[nn.Module, DescriptionT]:
    """Freshly initialised, or with the weights of `settings.init`, which the returned description then names.

    Raises RunError when those weights do not fit, see `start_from`.
    """
    module: nn.Module = build_model(description, settings.seed)
    if settings.init is None:
        return module, description
    run = open_run(settings.init, description.kind)
    share = start_from(module, description, run)
    init = InitialWeights(model=run.description.model, weights=run.hash(), share=round(share, 4))
    return module, description.model_copy(update={"init": init})


@contextmanager
def training_folder(request: RunRequest, device: str, dry_run: bool = False) -> Iterator[Path]:
    """The run folder, held by the main process of this training until the block ends; a dry run only names it.

    Raises as `hold_run_folder`.
    """
    with ExitStack() as held:
        if dry_run:
            yield on_main(device, lambda: choose_run_folder(request))
        else:
            yield on_main(device, lambda: held.enter_context(hold_run_folder(request)))


def train_gamma_vae(
    settings: TrainingSettings,
    options: VaeOptions,
    dataset: RawDataset,
    folder: Path,
    resume: bool,
    resolved: Mapping[str, Any],
) -> Mapping[str, float]:
    """Train, or continue to train, a VAE in `folder` (see `training_folder`); returns the best validation's numbers.

    Args:
        resolved: content of settings.json.

    Raises:
        RunError: the run there was started with other settings or data.
        TrainingError: the loss is not finite.
    """
    training, direction = settings.training, options.resolved_direction()
    perceptual = build_perceptual(training.perceptual, options.perceptual_weights)
    fresh = options.describe(settings.model, settings.size)
    facts = {"trained_on": dataset.name, "decoder_finish": training.decoder_finish}
    module, description = new_network(fresh.model_copy(update=facts), settings)
    with main_first(settings.device):
        data = prepare(dataset)
    task = VaeTask(
        data,
        settings.device,
        settings.seed,
        training.weights,
        training.warmup_images,
        settings.augmentation(),
        ColourRanges(),
        perceptual.to(settings.device) if perceptual else None,
        direction,
    )
    known = training_data(dataset, data, settings.init)
    network = description.network
    prior = [network.alpha_prior, network.beta_prior]
    several = {"latent_channels": network.latent_channels} if network.latent_channels > 1 else {}
    told = {"posterior": options.posterior, "kl": direction, "prior": prior, **several}
    identity = run_identity(settings, data.fingerprint, **told)
    start = partial(start_run, folder, description, resolved, identity, resume, known)
    on_main(settings.device, start)
    best = run_engine(settings, module, task, folder, resume, identity)
    assert isinstance(module, GammaVAE)
    if training.decoder_finish:
        finish = FinishSettings(training, settings.seed, settings.precision, settings.device, images_at_once(settings))
        best = finish_decoder(module, task, finish, folder)
    else:
        on_main(settings.device, partial(undo_finish, folder))
    on_main(settings.device, partial(write_texture, folder, module, data, settings.device))
    on_main(settings.device, partial(checksums.record, folder))
    return best


def train_diffusion(
    settings: TrainingSettings,
    dataset: RawDataset,
    vae_run: VaeRun | None,
    folder: Path,
    resume: bool,
    resolved: Mapping[str, Any],
) -> Mapping[str, float]:
    """Train, or continue to train, a diffusion model in `folder`; otherwise as `train_gamma_vae`.

    Args:
        vae_run: the Γ-VAE whose latents it learns, or None for a model on pixels.
    """
    vae_hash = vae_run.hash() if vae_run else None
    channels = vae_run.description.network.latent_channels if vae_run else 1
    fresh = describe_diffusion(settings.model, settings.size, vae_hash, settings.conditions, channels)
    module, description = new_network(fresh.model_copy(update={"trained_on": dataset.name}), settings)
    with main_first(settings.device):
        data = prepare(dataset)
    known = training_data(dataset, data, vae_run.folder if vae_run else None, settings.init)
    asked = {name: True for name, value in settings.conditions.model_dump().items() if value}
    identity = run_identity(settings, data.fingerprint, vae=vae_hash, **asked)
    if resume:  # before latents are computed for nothing
        on_main(settings.device, partial(check_resumable, folder, identity))
    vae = vae_run.load().to(settings.device) if vae_run else None
    codec = build_codec(vae, description.resolution)
    train, val = clean_fields(settings, dataset, data, codec, vae_hash)
    classes, stratum = description.network.classes, settings.training.batch if settings.training.stratified else 0
    task = DiffusionTask(train, val, settings.device, settings.seed, codec, folder / "samples", classes, stratum)
    start = partial(start_run, folder, description, resolved, identity, resume, known)
    on_main(settings.device, start)
    if settings.training.map_loss:
        task.map_loss, task.reader = settings.training.map_loss, _reader(task, settings, folder, identity)
    best = run_engine(settings, module, task, folder, resume, identity)
    on_main(settings.device, partial(checksums.record, folder))
    return best


def _reader(task: DiffusionTask, settings: TrainingSettings, folder: Path, identity: Mapping[str, Any]) -> nn.Module:
    """What reads the map in denoised fields; trained once, by the main process."""
    of = {name: identity[name] for name in ("data", "vae", "copies", "seed")}
    with main_first(settings.device):
        return train_reader(task, folder, of, settings.training.images)


def clean_fields(
    settings: TrainingSettings, dataset: RawDataset, data: Prepared, codec: Codec, vae_hash: str | None
) -> tuple[Fields, Fields]:
    """Clean fields to train on (augmented copies) and to validate with (without validation patients: the training cases)."""
    ranges, bf16 = settings.augmentation(), settings.precision == "bf16"
    soft = settings.conditions.soft_maps
    recipe = FieldRecipe(codec.resolution, vae_hash, settings.copies, ranges, settings.seed, bf16, soft)
    train_rows, val_rows = data.rows("train"), data.rows("val")
    with main_first(settings.device):
        train = kept_fields(data, train_rows, codec, recipe, dataset.name, settings.device)
        rows = val_rows if len(val_rows) else train_rows
        val = kept_fields(data, rows, codec, replace(recipe, copies=1), dataset.name, settings.device)
    return train, val


def training_data(dataset: RawDataset, data: Prepared, *begun_with: Path | None) -> TrainingData:
    """What data.json tells: the dataset, the patients of both splits, and those of the runs that it began with.

    Raises LeakageError where one of these runs knows a patient whom the dataset holds out.
    """
    patients = {
        split: tuple(sorted(set(data.cases["patient"][data.cases["split"] == split]))) for split in ("train", "val")
    }
    origin, subject = origin_of_dataset(dataset.path), dataset.subject.key()
    own = TrainingData(dataset.name, data.fingerprint, **patients, source=origin, subject=subject)
    whole = own.after([run for run in begun_with if run is not None])
    refuse_patients_of(
        dataset, whole.inherited, "training data of a run that this one begins with (--init, --vae, --teacher)"
    )
    return whole
