"""A small segmenter of clean fields, and the loss that a diffusion model gets where it cannot read the map in what is denoised.

The denoising loss weighs a pixel on the wrong side of a wall like any other error of grey. A frozen reader, trained
on the same training patients, says how far the denoised field shows the map that it was asked for; its gradient
teaches the network to follow maps. Source: ControlNet++ (Li et al. 2024), whose reward is this, at low noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.map_reading import reading_loss
from echo_synth.errors import RunError
from echo_synth.progress import Meter
from echo_synth.runs.folder import READER
from echo_synth.runs.tensors import load_tensors, load_weights, save_tensors
from echo_synth.training.streams import Stream, generator, normal, sample_indices
from echo_synth.training.tasks.diffusion import DiffusionTask

_TISSUES = 5
_IMAGES, _BATCH, _RATE = 9600, 32, 3e-3  # its loss on validation patients is flat by then
_FEWEST = 8  # steps
_BLUR, _NOISE = 1.5, 0.1  # most of both that it learns to read through: early in a trajectory fields are blurred means


def build_reader(channels: int = 1) -> nn.Module:
    """A U-Net of 48 000 weights: (N, channels, R, R) fields in [−1, 1] to (N, 5, R, R) logits of tissues."""
    from monai.networks.nets import UNet  # takes longer to import than all the rest, and few trainings have a reader

    reader: nn.Module = UNet(
        2, channels, _TISSUES, channels=(16, 32, 64), strides=(2, 2), num_res_units=1, norm="instance"
    )
    return reader


def train_reader(task: DiffusionTask, folder: Path, identity: Mapping[str, Any], most: int = _IMAGES) -> nn.Module:
    """The reader of a run's training fields, frozen: from `folder` where it was trained for the same `identity`, else new.

    Args:
        task: gives clean fields, tissues and sectors.
        identity: what decides its weights, as JSON holds it.
        most: images that it sees at most; a trial of a few images need not wait for its reader. A run that is lengthened
            keeps the reader that it began with, unless that has seen fewer than it would now.
    """
    file, images = folder / READER, max(_FEWEST, min(_IMAGES, most) // _BATCH) * _BATCH
    made = {"identity": dict(identity), "images": images}
    if (kept := _kept(file, made, task.channels)) is not None:
        return kept.to(task.device).eval().requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        reader = build_reader(task.channels).to(task.device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=_RATE)
    steps = images // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    meter = Meter(steps * _BATCH, "map reader", "images")
    for step in range(steps):
        loss = _step(reader, task, range(step * _BATCH, (step + 1) * _BATCH))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        meter.update(_BATCH, f"loss {float(loss):.3f}" if step % 20 == 0 else "")
    meter.close()
    save_tensors(file, reader.state_dict(), made)
    return reader.eval().requires_grad_(False)


def _kept(file: Path, made: Mapping[str, Any], channels: int) -> nn.Module | None:
    """The reader in `file`, where it is whole, was `made` as this one would be and saw as many images; it can always be made again."""
    reader = build_reader(channels)
    try:
        found = load_tensors(file)[1]
        # Earlier versions did not say how many.
        if found["identity"] != made["identity"] or found.get("images", made["images"]) < made["images"]:
            return None
        load_weights(reader, file)
    except (RunError, KeyError, TypeError):
        return None
    return reader


def _step(reader: nn.Module, task: DiffusionTask, positions: range) -> Tensor:
    rows = sample_indices(task.seed, positions, len(task.train.clean))
    clean, _, sector = task.load(task.train, rows)
    draw = partial(torch.rand, (len(clean), 1, 1, 1), generator=generator(task.seed, positions[0], Stream.STEP))
    width, level = (draw() * _BLUR).to(clean), (draw() * _NOISE).to(clean)
    noise = normal(task.seed, positions, clean.shape[1:]).to(clean)
    seen = torch.where(sector > 0, _blurred(clean, width) + level * noise, -1.0)
    return reading_loss(reader, seen, task.tissues(task.train, rows), sector).mean()


def _blurred(fields: Tensor, width: Tensor) -> Tensor:
    """`fields` (N, C, R, R) by Gaussians of `width` (N, 1, 1, 1) cells."""
    n, reach = len(fields), 4
    offsets = torch.arange(-reach, reach + 1, device=fields.device, dtype=fields.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * width.reshape(n, 1).clamp_min(1e-2) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).reshape(n, 1, -1)
    padded = F.pad(fields, (reach,) * 4, mode="replicate").transpose(0, 1)
    rows = F.conv2d(padded, kernel[..., None], groups=n)
    return F.conv2d(rows, kernel[:, :, None], groups=n).transpose(0, 1)
