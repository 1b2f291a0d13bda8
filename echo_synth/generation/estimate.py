"""Time, memory and disk of drawing a dataset, from two evaluations of the network."""

from __future__ import annotations

import pandas as pd
import torch

from echo_synth.data.maps import MapFolder
from echo_synth.estimate import IMAGE_BYTES, Estimate, measured_seconds
from echo_synth.generation.engine import ImageGenerator, SamplerSettings
from echo_synth.generation.run import read_batch

_ACTIVATION_BYTES = 24 << 20  # of an image, at the widest place of the larger networks
_FRAMEWORK_BYTES = 600 << 20
_AT_ONCE = 2


def estimate_generation(
    generator: ImageGenerator, settings: SamplerSettings, maps: MapFolder, rows: pd.DataFrame, batch: int
) -> Estimate:
    """Of drawing all `rows` (a plan, see `manifest.plan_images`) in one process, in batches of `batch`."""
    tissues, frames = read_batch(maps, rows.head(min(_AT_ONCE, batch)))
    noise = generator.noise(0, range(len(tissues)))
    one = SamplerSettings(1, "euler", settings.discretization)

    def decode() -> None:
        generator.images(torch.from_numpy(noise).to(generator.device).clamp(-1, 1), tissues)

    wait = torch.cuda.synchronize if generator.device.startswith("cuda") else (lambda: None)
    evaluation = measured_seconds(lambda: generator.fields(tissues, frames, noise, one), wait)
    seconds = (settings.nfe * evaluation + measured_seconds(decode, wait)) / len(tissues) * len(rows)
    parameters = sum(p.numel() * p.element_size() for p in generator.denoiser.parameters())
    memory = process_bytes(parameters, batch, generator.modulation_bytes)
    return Estimate(seconds, len(rows) * IMAGE_BYTES, memory)


def process_bytes(parameters: float, batch: int, modulation_bytes: float) -> float:
    """Memory of a process that draws, or of its device; `parameters` are the networks', in bytes."""
    kept = min(modulation_bytes, batch * _ACTIVATION_BYTES)
    return _FRAMEWORK_BYTES + 2 * parameters + kept + batch * _ACTIVATION_BYTES
