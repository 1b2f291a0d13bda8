"""Time, memory and disk of a training, from one step on random data; weights to start from must fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from echo_synth.data.augment import ColourRanges
from echo_synth.data.prepared import Prepared
from echo_synth.diffusion.labels import TISSUES
from echo_synth.estimate import Estimate, measured_seconds
from echo_synth.runs.description import DiffusionDescription, VaeDescription, build_model
from echo_synth.training.distill import DistillOptions, Teacher, consistency_task
from echo_synth.training.perceptual_networks import build_perceptual
from echo_synth.training.run import TrainingSettings, VaeOptions, images_at_once, memory_format, new_network
from echo_synth.training.tasks.diffusion import DiffusionTask, Fields
from echo_synth.training.tasks.vae import VaeTask

_AROUND = 1.15  # validation, previews, saving
_FRAMEWORK_BYTES = 600 << 20  # torch and its libraries
_BYTES_PER_VALUE = 4


def estimate_vae(settings: TrainingSettings, options: VaeOptions, description: VaeDescription) -> Estimate:
    """Of `train_gamma_vae` with these settings; the images left to see are all of them."""
    training = settings.training
    perceptual = build_perceptual(training.perceptual, options.perceptual_weights)
    task = VaeTask(
        _random_images(description.resolution),
        settings.device,
        settings.seed,
        training.weights,
        0,
        settings.augmentation(),
        ColourRanges(),
        perceptual.to(settings.device) if perceptual else None,
        options.resolved_direction(),
    )
    return _estimate(settings, new_network(description, settings)[0], task, kept_bytes=0)


def estimate_diffusion(settings: TrainingSettings, description: DiffusionDescription, cases: int) -> Estimate:
    """Of `train_diffusion` with these settings; the fields of `cases` images are kept on disk."""
    fields = _random_fields(description)
    task = DiffusionTask(fields, fields, settings.device, settings.seed, classes=description.network.classes)
    return _estimate(settings, new_network(description, settings)[0], task, _kept_bytes(settings, description, cases))


def estimate_distillation(
    settings: TrainingSettings, options: DistillOptions, teacher: Teacher, cases: int
) -> Estimate:
    """Of `distill` with these settings; the fields of `cases` images are kept on disk."""
    description = teacher.description
    fields = _random_fields(description)
    task = consistency_task(settings, options, teacher, (fields, fields))
    return _estimate(settings, build_model(description), task, _kept_bytes(settings, description, cases))


def _random_fields(description: DiffusionDescription) -> Fields:
    side = description.resolution
    rng = np.random.default_rng(0)
    channels = description.network.image_channels
    shape = (2, channels, side, side) if channels > 1 else (2, side, side)
    clean = rng.standard_normal(shape).astype(np.float32)
    shares = np.full((2, TISSUES, side, side), 51, np.uint8) if description.network.soft_maps else None
    return Fields(clean, np.full((2, side, side), 4, np.uint8), np.zeros(2, np.uint8), shares)


def _kept_bytes(settings: TrainingSettings, description: DiffusionDescription, cases: int) -> float:
    network = description.network
    kept = 2 * network.image_channels + 1 + (TISSUES if network.soft_maps else 0)  # bytes a pixel
    return kept * settings.copies * cases * description.resolution**2


def _random_images(side: int) -> Prepared:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 255, (2, side, side), np.uint8)
    cases = pd.DataFrame({"case": ["a", "b"], "split": "train"})
    return Prepared(images, np.full_like(images, 4), np.zeros(2, np.uint8), cases, "")


@dataclass
class _SavedBytes:
    """Counts what the backward pass needs of one forward pass."""

    total: int = 0

    def pack(self, tensor: Tensor) -> Tensor:
        self.total += tensor.numel() * tensor.element_size()
        return tensor


def _estimate(
    settings: TrainingSettings, module: nn.Module, task: VaeTask | DiffusionTask, kept_bytes: float
) -> Estimate:
    module.to(settings.device).to(memory_format=memory_format(settings.device)).train()
    training = settings.training
    share = min(images_at_once(settings) or training.batch, training.batch)
    at_once = min(2, share)
    saved = _SavedBytes()

    def step() -> None:
        saved.total = 0
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda t: t), _autocast(settings):
            terms: Mapping[str, Tensor] = task.loss(module, list(_positions(training.warmup_images, at_once)))
        terms["loss"].backward()
        module.zero_grad(set_to_none=True)

    wait = torch.cuda.synchronize if settings.device.startswith("cuda") else (lambda: None)
    seconds = measured_seconds(step, wait) / at_once * training.images * _AROUND
    parameters = sum(p.numel() for p in module.parameters()) * _BYTES_PER_VALUE
    moments = 1 if training.optimizer in ("sgd", "muon") else 2
    tracks = 2 if training.ema_snapshots else 0
    state = parameters * (2 + moments + tracks)  # weights, their average, the optimiser's moments
    snapshots = parameters * training.ema_snapshots  # two averages in half precision each
    memory = _FRAMEWORK_BYTES + state + 2 * parameters + saved.total / at_once * share
    return Estimate(seconds, parameters + state + snapshots + kept_bytes, memory)


def _positions(first: int, count: int) -> Sequence[int]:
    """Sample positions after the warm-up, when every term of the loss counts."""
    return range(first, first + count)


def _autocast(settings: TrainingSettings) -> torch.autocast:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = torch.device(settings.device).type
    return torch.autocast(kind, kinds.get(settings.precision, torch.bfloat16), enabled=settings.precision in kinds)
