"""Distilling a trained diffusion model to one or two evaluations, from end to end: a training with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from echo_synth import checksums, specs
from echo_synth.data.nnunet_raw import RawDataset, find_by_name
from echo_synth.data.prepared import prepare
from echo_synth.diffusion.consistency import ConsistencyLevels
from echo_synth.errors import RunError
from echo_synth.files import read_json
from echo_synth.runs.description import DiffusionDescription, Distillation, InitialWeights, build_model
from echo_synth.runs.folder import DiffusionRun, VaeRun
from echo_synth.runs.start import check_resumable, start_run
from echo_synth.runs.tensors import load_weights
from echo_synth.training.distributed import main_first, on_main
from echo_synth.training.run import TrainingSettings, clean_fields, run_engine, run_identity, training_data
from echo_synth.training.tasks.consistency import ConsistencyTask
from echo_synth.training.tasks.diffusion import Fields
from echo_synth.vae.codec import Codec, build_codec

_FITTING = "edm"  # the formulation whose preconditioning gives f(x, 0) = x
_SIGMA_PER_PIXEL = 20 / 64  # of the grid's side: the noise that hides an image's mean grows with its pixels
_LARGEST_SIGMA = 80.0
COPIES = 6  # as `train`, where a teacher does not tell


@dataclass(frozen=True)
class Teacher:
    """What is distilled: a run and, for a model on latents, its Γ-VAE."""

    run: DiffusionRun
    vae: VaeRun | None

    @property
    def description(self) -> DiffusionDescription:
        return self.run.description

    def check(self) -> None:
        """Raise RunError unless it is an EDM model that was not distilled itself."""
        if self.description.precond != _FITTING:
            raise RunError(
                f"{self.run.folder}: its formulation is {self.description.precond}, whose preconditioning does not give "
                "f(x, 0) = x as a consistency model's must; distill an edm, edm-l128 or edm-l64"
            )
        if self.description.distilled:
            raise RunError(
                f"{self.run.folder}: is distilled itself; pass its teacher (weights {self.description.distilled.teacher})"
            )

    def conditions(self) -> specs.Conditions:
        """How label maps reach its network."""
        network = self.description.network
        phase = network.classes > specs.labels().semantic_classes
        return specs.Conditions(soft_maps=network.soft_maps, phase=phase, map_input=network.map_input)

    def copies(self) -> int:
        """Augmented copies of each image that it was trained on, whose kept fields are used again."""
        file = self.run.folder / "settings.json"
        content = read_json(file) if file.is_file() else {}
        told = content.get("copies") if isinstance(content, dict) else None
        return told if isinstance(told, int) and 1 <= told <= 1000 else COPIES

    def dataset(self) -> RawDataset:
        """The raw dataset that it was trained on. Raises RunError where it is not named, DataError where it is not here."""
        name = self.description.trained_on
        if name is None:
            raise RunError(f"{self.run.folder}: its model.json does not name its dataset; pass --dataset-id")
        return find_by_name(name)


class DistillOptions(BaseModel):
    """What a distillation can be asked for beside a training; part of what a resumed one must share.

    Levels σ and `huber` are in units of the clean data, which lie in [−1, 1].
    """

    model_config = ConfigDict(frozen=True)

    sigma_max: float = Field(gt=0, le=1000)
    renoise: float = Field(gt=0)
    halve_every: int = Field(gt=0, description="images after which the gap between noise levels is halved")
    huber: float = Field(default=0.01, gt=0)
    target: str = Field(default="teacher", description="teacher: its trajectories; or data")


def default_sigma_max(resolution: int) -> float:
    """Level that a student draws from: 20 at 64 px, in proportion to the side, at most EDM's 80."""
    return min(_LARGEST_SIGMA, _SIGMA_PER_PIXEL * resolution)


def describe_student(teacher: Teacher, options: DistillOptions) -> DiffusionDescription:
    """model.json of a student: the teacher's network, and what it was distilled to."""
    weights = teacher.run.hash()
    distilled = Distillation(
        method="consistency", teacher=weights, sigma_max=options.sigma_max, renoise=options.renoise
    )
    init = InitialWeights(model=teacher.description.model, weights=weights, share=1.0)
    return teacher.description.model_copy(update={"distilled": distilled, "init": init})


def distill(
    settings: TrainingSettings,
    options: DistillOptions,
    dataset: RawDataset,
    teacher: Teacher,
    folder: Path,
    resume: bool,
    resolved: Mapping[str, Any],
) -> Mapping[str, float]:
    """Distil `teacher`, or go on, in `folder` (see `run.training_folder`); returns the best validation's numbers.

    Args:
        resolved: content of settings.json.

    Raises:
        RunError: the run there was started with other settings, data or teacher.
        TrainingError: the loss is not finite.
    """
    with main_first(settings.device):
        data = prepare(dataset)
    known = training_data(dataset, data, teacher.run.folder, teacher.vae.folder if teacher.vae else None)
    description = describe_student(teacher, options).model_copy(update={"trained_on": dataset.name})
    vae_hash = teacher.vae.hash() if teacher.vae else None
    own = {"vae": vae_hash, "teacher": teacher.run.hash(), **options.model_dump()}
    identity = run_identity(settings, data.fingerprint, **own)
    if resume:  # before latents are computed for nothing
        on_main(settings.device, partial(check_resumable, folder, identity))
    module = build_model(description, settings.seed)
    load_weights(module, teacher.run.weights)
    vae = teacher.vae.load().to(settings.device) if teacher.vae else None
    codec = build_codec(vae, description.resolution)
    fields = clean_fields(settings, dataset, data, codec, vae_hash)
    task = consistency_task(settings, options, teacher, fields, codec, folder / "samples")
    start = partial(start_run, folder, description, resolved, identity, resume, known)
    on_main(settings.device, start)
    best = run_engine(settings, module, task, folder, resume, identity)
    on_main(settings.device, partial(checksums.record, folder))
    return best


def consistency_task(
    settings: TrainingSettings,
    options: DistillOptions,
    teacher: Teacher,
    fields: tuple[Fields, Fields],
    codec: Codec | None = None,
    samples: Path | None = None,
) -> ConsistencyTask:
    """The task of these settings on fields to train on and to validate with."""
    return ConsistencyTask(
        *fields,
        settings.device,
        settings.seed,
        teacher.run.load().to(settings.device),
        ConsistencyLevels(options.sigma_max, options.halve_every),
        options.renoise,
        options.huber,
        options.target == "teacher",
        codec,
        samples,
        teacher.description.network.classes,
        settings.training.batch if settings.training.stratified else 0,
    )
