"""Throughput against NFE, and where the time goes; the paper's figure 4 on whatever machine this is."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from echo_synth.data.nnunet_raw import write_image
from echo_synth.diffusion.denoiser import Guided
from echo_synth.generation.engine import Generator, Sampler, image_noise

STAGES = ("modulation", "network", "decode", "write")


@dataclass(frozen=True)
class Stages:
    """Seconds for one batch: of each stage once, the network once per evaluation. Lists over repeats."""

    batch: int
    seconds: dict[str, list[float]]

    def per_image(self, nfe: int, kept: bool = True) -> float:
        """Seconds an image at `nfe`, from the medians; modulations once a trajectory when `kept`."""
        m = {stage: statistics.median(values) for stage, values in self.seconds.items()}
        once = m["decode"] + m["write"] + (m["modulation"] if kept else 0)
        return (once + nfe * (m["network"] + (0 if kept else m["modulation"]))) / self.batch


def _timed(work: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Durations after one run that is not counted."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken


@torch.inference_mode()
def stages(generator: Generator, tissues: NDArray[np.uint8], views: NDArray[np.uint8], repeats: int) -> Stages:
    """Time each stage by itself on one batch of maps (N, 256, 256)."""
    device, n = generator.device, len(tissues)
    labels, inside = generator.labels(tissues, views)
    modulations = generator.modulate(labels)
    x = torch.from_numpy(np.stack([image_noise(0, i, generator.resolution) for i in range(n)])).to(device)
    guided = Guided(generator.denoiser, modulations, inside)
    level = torch.tensor(1.0, dtype=torch.float64, device=device)
    images = generator.images(x * 0.2, tissues)
    with TemporaryDirectory() as folder:

        def write() -> None:
            for i, image in enumerate(images):
                write_image(Path(folder) / f"{i}.nii.gz", image, (0.5, 0.5))

        seconds = {
            "modulation": _timed(lambda: generator.denoiser.modulate(labels, generator.dtype), repeats, device),
            "network": _timed(lambda: guided(x, level), repeats, device),
            "decode": _timed(lambda: generator.images(x * 0.2, tissues), repeats, device),
            "write": _timed(write, repeats, device),
        }
    return Stages(n, seconds)


def whole(
    generator: Generator, tissues: NDArray[np.uint8], views: NDArray[np.uint8], how: Sampler, repeats: int
) -> list[float]:
    """Images/s of complete trajectories with decoding, one figure a repeat, after one that is not counted."""
    taken = _timed(lambda: generator.draw(tissues, views, 0, range(len(tissues)), how), repeats, generator.device)
    return [len(tissues) / t for t in taken]


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def peak_memory(device: str) -> int:
    """Bytes: of the GPU's allocator, or of this process so far."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def median(values: Sequence[float]) -> float:
    """Median, for rows of a table."""
    return statistics.median(values)
