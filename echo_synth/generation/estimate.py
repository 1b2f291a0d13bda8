"""Time, memory and disk of drawing a dataset, from a few evaluations of the network."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from echo_synth.data.maps import MapFolder
from echo_synth.estimate import IMAGE_BYTES, Estimate, measured_seconds
from echo_synth.generation.engine import ImageGenerator, SamplerSettings
from echo_synth.generation.run import read_batch

_ACTIVATION_BYTES = 24 << 20  # of an image, at the widest place of the larger networks
_FRAMEWORK_BYTES = 600 << 20
_AT_ONCE = 2
_QUICK_SECONDS = 2.0  # that an evaluation of a whole batch may take to be measured


def estimate_generation(
    generator: ImageGenerator, settings: SamplerSettings, maps: MapFolder, rows: pd.DataFrame, batch: int
) -> Estimate:
    """Of drawing all `rows` (a plan, see `manifest.plan_images`) in one process, in batches of `batch`; writing is not counted."""
    if rows.empty:
        return Estimate(0.0, 0, 0)
    few = batch if generator.compiled else min(_AT_ONCE, batch)  # another size would be compiled for once more
    measured = _measure(generator, settings, maps, rows.head(few))
    # Small networks draw whole batches faster; a GPU's memory may be too small for one, which drawing would find out.
    if few < batch and generator.device == "cpu" and measured.evaluation * batch < _QUICK_SECONDS:
        measured = _measure(generator, settings, maps, rows.head(batch))
    seconds = (measured.once + settings.nfe * measured.evaluation) * len(rows)
    parameters = sum(p.numel() * p.element_size() for p in generator.denoiser.parameters())
    memory = process_bytes(parameters, batch, generator.modulation_bytes)
    return Estimate(seconds, len(rows) * IMAGE_BYTES, memory)


@dataclass(frozen=True)
class _Seconds:
    """Of an image: what each evaluation takes, and what is done once (modulations, decoder, texture)."""

    evaluation: float
    once: float


def _measure(generator: ImageGenerator, settings: SamplerSettings, maps: MapFolder, rows: pd.DataFrame) -> _Seconds:
    """Of `rows` drawn at once."""
    tissues, frames = read_batch(maps, rows)
    noise = generator.noise(0, range(len(tissues)))
    one = SamplerSettings(1, "euler", settings.discretization)
    guided = generator.guide(tissues, frames)
    fields = torch.from_numpy(noise).to(generator.device).clamp(-1, 1)

    def show() -> None:
        images = generator.images(fields, tissues)
        if generator.texture is not None:
            for i, image in enumerate(images):
                generator.texture.draw(image, 0, i)

    wait = torch.cuda.synchronize if generator.device.startswith("cuda") else (lambda: None)
    evaluation = measured_seconds(lambda: generator.solve(guided, noise, one), wait)
    once = measured_seconds(lambda: generator.guide(tissues, frames), wait) + measured_seconds(show, wait)
    return _Seconds(evaluation / len(tissues), once / len(tissues))


def process_bytes(parameters: float, batch: int, modulation_bytes: float) -> float:
    """Memory of a process that draws, or of its device; `parameters` are the networks', in bytes."""
    kept = min(modulation_bytes, batch * _ACTIVATION_BYTES)
    return _FRAMEWORK_BYTES + 2 * parameters + kept + batch * _ACTIVATION_BYTES
