"""Throughput against NFE, and where the time goes; the paper's figure 4 on whatever machine this is."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.nifti import write_image
from echo_synth.diffusion.denoiser import Guided
from echo_synth.errors import SpecError
from echo_synth.generation.engine import ImageGenerator, SamplerSettings, default_settings
from echo_synth.generation.ways import check_ways
from echo_synth.runs.description import build_model, describe_diffusion, describe_vae

SDM_NFE = 1000  # of the paper's figure 4: speeds are counted in SDM's at this many evaluations


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is timed, and how.

    Attributes:
        models: names of presets, e.g. edm-l64.
        budgets: NFE.
        size: network size of all of them.
        repeats: timings of each stage, after one that is not counted.
        solver, whole: solver of complete trajectories, and whether they are timed too.
        fast, compiled: as `ImageGenerator` takes them.
    """

    models: tuple[str, ...]
    budgets: tuple[int, ...]
    size: str
    repeats: int
    solver: str
    whole: bool
    fast: bool
    compiled: bool
    precision: str
    device: str

    def check(self) -> None:
        """Raise SpecError for a model or size that there is not, a model that is there twice, or ways that do not go together, before
        anything is timed."""
        check_ways(self.precision, self.compiled)
        if "" in self.models or len(set(self.models)) < len(self.models):
            raise SpecError(f"--models {','.join(self.models)}: expected each model once, with one comma between them")
        for name in self.models:
            specs.diffusion_model(name)
            describe_diffusion(name, self.size, None)

    def settings(self) -> dict[str, Any]:
        """Resolved settings by the names of the command's options."""
        return {
            "models": list(self.models),
            "nfe": list(self.budgets),
            "size": self.size,
            "repeats": self.repeats,
            "solver": self.solver,
            "measure": "whole" if self.whole else "stages",
            "fast": "on" if self.fast else "off",
            "precision": self.precision,
            "device": self.device,
            "compile": self.compiled,
        }


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        table: throughput.csv: model, nfe, images_per_second; measured, slowest, fastest where complete
            trajectories were timed; times_sdm_1000 where SDM was.
        stages: stages.csv: model, stage, seconds_per_batch, slowest, fastest.
        sdm_reference: images/s of SDM at 1000 NFE, or None.
    """

    table: pd.DataFrame
    stages: pd.DataFrame
    sdm_reference: float | None


@dataclass(frozen=True)
class StageTimes:
    """Seconds for one batch: of each stage once, the network once per evaluation. Lists over repeats."""

    batch: int
    seconds: dict[str, list[float]]

    def rows(self) -> list[dict[str, Any]]:
        """A table's rows: stage, seconds_per_batch (median), slowest, fastest."""
        return [
            {"stage": stage, "seconds_per_batch": statistics.median(v), "slowest": max(v), "fastest": min(v)}
            for stage, v in self.seconds.items()
        ]

    def per_image(self, nfe: int) -> float:
        """Seconds an image at `nfe`, from the medians: the network at each evaluation, the rest once."""
        m = {stage: statistics.median(values) for stage, values in self.seconds.items()}
        return (m["modulation"] + m["decode"] + m["write"] + nfe * m["network"]) / self.batch


def _timed(work: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Durations after one run that is not counted."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    work()
    taken = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return taken


@torch.inference_mode()
def time_stages(
    generator: ImageGenerator, tissues: NDArray[np.uint8], frames: NDArray[np.uint8], repeats: int
) -> StageTimes:
    """Time each stage by itself on one batch of maps (N, 256, 256).

    What is not kept between evaluations (the plain way keeps nothing) is part of the network's time.
    """
    device, n = generator.device, len(tissues)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    labels, inside = generator.labels(tissues, frames)
    modulations = generator.modulate(labels)
    x = torch.from_numpy(generator.noise(0, range(n))).to(device)
    guided = Guided(generator.denoiser, modulations, inside)
    level = torch.tensor(1.0, dtype=torch.float64, device=device)
    images = generator.images(x * 0.2, tissues)
    with TemporaryDirectory() as folder:

        def write() -> None:
            for i, image in enumerate(images):
                write_image(Path(folder) / f"{i}.nii.gz", image, (0.5, 0.5))

        seconds = {
            "modulation": _timed(lambda: generator.modulate(labels), repeats, device),
            "network": _timed(lambda: guided(x, level), repeats, device),
            "decode": _timed(lambda: generator.images(x * 0.2, tissues), repeats, device),
            "write": _timed(write, repeats, device),
        }
    return StageTimes(n, seconds)


def fresh(name: str, plan: BenchmarkPlan) -> ImageGenerator:
    """A generator of that model and size with untrained weights, which cost what trained ones do."""
    spec = specs.diffusion_model(name)
    network = build_model(describe_diffusion(name, plan.size, None)).eval().requires_grad_(False)
    vae = build_model(describe_vae(spec.vae, plan.size)).eval().requires_grad_(False) if spec.vae else None
    return ImageGenerator(network, vae, plan.device, plan.precision, plan.fast, compiled=plan.compiled)


def whole(
    generator: ImageGenerator,
    tissues: NDArray[np.uint8],
    frames: NDArray[np.uint8],
    settings: SamplerSettings,
    repeats: int,
) -> list[float]:
    """Images/s of complete trajectories with decoding, one figure a repeat, after one that is not counted."""
    taken = _timed(lambda: generator.draw(tissues, frames, 0, range(len(tissues)), settings), repeats, generator.device)
    return [len(tissues) / t for t in taken]


def benchmark(
    plan: BenchmarkPlan, tissues: NDArray[np.uint8], frames: NDArray[np.uint8], say: Callable[[str], None]
) -> Benchmark:
    """Time every model of the plan on one batch of maps.

    Args:
        tissues, frames: maps (N, 256, 256) and frames (N,); N is the batch.
        say: is told a line a model as it is done.
    """
    speeds: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    sdm_reference = None
    for name in plan.models:
        generator = fresh(name, plan)
        times = time_stages(generator, tissues, frames, plan.repeats)
        stages += [{"model": name, **row} for row in times.rows()]
        speeds += [_speed(name, generator, times, nfe, plan, tissues, frames) for nfe in plan.budgets]
        memory = peak_memory(plan.device) / 2**20
        speed = f"{speeds[-1]['images_per_second']:.3g} images/s at {plan.budgets[-1]} NFE"
        say(f"{name}: {speed}, peak memory {memory:.0f} MiB")
        if name == "sdm":
            sdm_reference = 1 / times.per_image(SDM_NFE)
    table = pd.DataFrame(speeds)
    if sdm_reference:
        table["times_sdm_1000"] = table["images_per_second"] / sdm_reference
    return Benchmark(table, pd.DataFrame(stages), sdm_reference)


def _speed(
    name: str,
    generator: ImageGenerator,
    times: StageTimes,
    nfe: int,
    plan: BenchmarkPlan,
    tissues: NDArray[np.uint8],
    frames: NDArray[np.uint8],
) -> dict[str, Any]:
    """A row of throughput.csv."""
    row: dict[str, Any] = {"model": name, "nfe": nfe, "images_per_second": 1 / times.per_image(nfe)}
    if plan.whole:
        settings = default_settings(specs.diffusion_model(name).precond, nfe, plan.solver)
        rates = whole(generator, tissues, frames, settings, plan.repeats)
        row |= {"measured": statistics.median(rates), "slowest": min(rates), "fastest": max(rates)}
    return row


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to."""
    on_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    return {
        "device": name,
        "accelerator": "cuda" if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def peak_memory(device: str) -> int:
    """Bytes: of the GPU's allocator, or of this process so far."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
