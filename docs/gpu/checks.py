"""Checks and timings in one process: the machine, all six models, ways of drawing, training at the paper's batches.

    python docs/gpu/checks.py --out OUT --seconds 200 [--device cpu --quick]

`run.py` starts this. A part that fails, for want of memory or in a compiler, is written down and costs none of the others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from book import Book

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.device import resolve_precision, training_device
from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.diffusion.loss import denoising_loss
from echo_synth.estimate import measured_seconds
from echo_synth.evaluation import throughput
from echo_synth.evaluation.map_batches import Batch, first_maps
from echo_synth.generation.engine import default_settings
from echo_synth.generation.sources import choose_model
from echo_synth.parallel import available_cores
from echo_synth.runs.description import build_model, describe_diffusion
from echo_synth.training.optimizers import build_optimizer
from echo_synth.training.run import memory_format

MODELS = ("sdm", "ve", "vp", "edm", "edm-l128", "edm-l64")
BUNDLED = specs.root() / "bundled"


@dataclass(frozen=True)
class Way:
    """One way of drawing.

    Attributes:
        fast, compiled: as `ImageGenerator` takes them.
        autocast: the network's weights stay float32, and torch casts at every operation, as the paper's code does.
    """

    precision: str
    fast: bool = True
    compiled: bool = False
    autocast: bool = False

    @property
    def weights(self) -> str:
        return "fp32" if self.autocast else self.precision

    def context(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device.partition(":")[0], _DTYPES[self.precision]) if self.autocast else nullcontext()


@dataclass(frozen=True)
class Step:
    """One way of training.

    Attributes:
        plain: default layout, as the paper's code has it.
        compiled: the network through torch.compile.
    """

    precision: str
    plain: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Plan:
    """What is checked, how large, and with which optimiser trainings step."""

    device: str
    quick: bool
    optimizer: str = "adamw"

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def size(self) -> str:
        return "tiny" if self.quick else "paper"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def ways(self) -> dict[str, Way]:
        """From the plain one, which the others are held against; compilers last, as they take a minute and more.

        "reference" is what a user of the paper's code has on a GPU: its computation under fp16 autocast, eager.
        """
        half = "fp16" if self.cuda else "bf16"
        known = {
            "plain": Way("fp32", fast=False),
            "reference": Way(half, fast=False, autocast=True),
            "fp32": Way("fp32"),
            "bf16": Way("bf16"),
        }
        if self.cuda:
            known["fp16"] = Way("fp16")
        if not self.quick:
            known |= {"bf16 compiled": Way("bf16", compiled=True), "fp32 compiled": Way("fp32", compiled=True)}
        return known

    def steps(self) -> dict[str, Step]:
        """Ways of training, from the paper's."""
        known = {"reference": Step("fp16" if self.cuda else "fp32", plain=True)}
        known[self.best] = Step(self.best)
        if not self.quick:
            known |= {"fp32": Step("fp32"), f"{self.best} compiled": Step(self.best, compiled=True)}
        return known

    @property
    def best(self) -> str:
        """The precision that `train` takes here."""
        return resolve_precision("auto", self.device)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def peak_gib(plan: Plan) -> float:
    """Since `fresh_memory` on a GPU, of the process so far on a CPU."""
    return throughput.peak_memory(plan.device) / 2**30


def fresh_memory(plan: Plan) -> None:
    if "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch._dynamo.reset()
    if plan.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def guarded(
    book: Book, plan: Plan, section: str, what: dict[str, object], work: Callable[[], dict[str, object]]
) -> bool:
    """Whether `work` went well; its figures, or its error, are written."""
    fresh_memory(plan)
    try:
        book.add(section, **what, **work())
        return True
    except Exception as e:
        book.add(section, **what, state="failed", error=f"{type(e).__name__}: {str(e)[:300]}")
        return False


def machine(book: Book, plan: Plan) -> None:
    """What the figures belong to, and the most that it could do."""
    about = throughput.machine(plan.device) | {"cores": available_cores(), "python": sys.version.split()[0]}
    if plan.cuda:
        about |= {
            "devices": torch.cuda.device_count(),
            "capability": torch.cuda.get_device_capability(),
            "cuda": torch.version.cuda,
            "memory_gib": torch.cuda.get_device_properties(plan.device).total_memory / 2**30,
        }
    book.add("machine", **about)
    side, length = (8192, 1 << 29) if plan.cuda else (512, 1 << 22)
    for precision in ("fp32", "bf16"):
        a = torch.randn(side, side, device=plan.device, dtype=_DTYPES[precision])
        seconds = measured_seconds(partial(torch.mm, a, a), plan.wait)
        book.add("machine", what=f"product {precision}", tflops=2e-12 * side**3 / seconds)
    source = torch.zeros(length, dtype=torch.uint8, device=plan.device)
    target = torch.empty_like(source)
    seconds = measured_seconds(lambda: target.copy_(source), plan.wait)
    book.add("machine", what="copy", gb_per_second=2e-9 * length / seconds)


def training_step(denoiser: Denoiser, batch: int, plan: Plan, way: Step, side: int) -> Callable[[], Tensor]:
    """Forward, backward and optimiser on random fields, as a training does it; gives the loss."""
    device, precision = plan.device, way.precision
    layout = torch.contiguous_format if way.plain else memory_format(device, way.compiled)
    denoiser.to(device).to(memory_format=layout).train()
    if way.compiled:
        denoiser.network.compile()
    clean, labels = (
        torch.rand(batch, 1, side, side, device=device) * 2 - 1,
        torch.randint(0, 10, (batch, side, side), device=device),
    )
    sector, noise = torch.ones_like(clean), torch.randn_like(clean)
    uniform = torch.rand(batch, device=device) * 0.98 + 0.01
    optimizer = build_optimizer(denoiser.parameters(), _spec(plan.optimizer))
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")

    def step() -> Tensor:
        with torch.autocast(kind, _DTYPES[precision], enabled=precision != "fp32"):
            loss = denoising_loss(denoiser, clean, labels, sector, uniform, noise)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def _spec(optimizer: str) -> specs.TrainingSpec:
    return specs.TrainingSpec(images=1, batch=1, optimizer=optimizer, lr=1e-5, clip_norm=1.0, ema_std=0.0)


def one_model(name: str, batch: int, plan: Plan, way: Step, size: str | None = None) -> dict[str, object]:
    """A training step of a preset: its time, memory, and whether its numbers are finite."""
    description = describe_diffusion(name, size or plan.size, None)
    denoiser = build_model(description)
    step = training_step(denoiser, batch, plan, way, description.resolution)
    losses: list[Tensor] = []
    seconds = measured_seconds(lambda: losses.append(step()), plan.wait)
    loss = float(losses[-1])
    gradients = [p.grad for p in denoiser.parameters() if p.grad is not None]
    finite = np.isfinite(loss) and all(bool(torch.isfinite(g).all()) for g in gradients)
    million = sum(p.numel() for p in denoiser.parameters()) / 1e6
    figures = {"million_parameters": million, "loss": loss, "seconds": seconds, "images_per_second": batch / seconds}
    return {"state": "done" if finite and gradients else "not finite", **figures, "peak_gib": peak_gib(plan)}


def models(book: Book, plan: Plan) -> None:
    """All six models, forward and backward."""
    batch = 1 if plan.quick else 2
    for name in MODELS:
        what = {"model": name, "size": plan.size, "batch": batch, "precision": plan.best}
        if book.has("models", 8 if plan.cuda else 2, **what):
            guarded(book, plan, "models", what, partial(one_model, name, batch, plan, Step(plan.best)))


def rates(book: Book, plan: Plan) -> None:
    """Images/s that each model trains with at size tiny, by the optimiser asked for; what six_models.py shares the time by."""
    batch = 2 if plan.quick else 32
    for name in MODELS:
        what = {"model": name, "size": "tiny", "batch": batch, "precision": plan.best, "optimizer": plan.optimizer}
        if book.has("rates", 6 if plan.cuda else 2, **what):
            guarded(book, plan, "rates", what, partial(one_model, name, batch, plan, Step(plan.best), "tiny"))


def ways(book: Book, plan: Plan) -> None:
    """Each way of drawing against the plain one: the bundled weights, which draw hearts, for the difference."""
    maps = first_maps(open_maps(BUNDLED / "maps"), 2 if plan.quick else 16)
    truth: list[np.ndarray] = []
    for name, way in plan.ways().items():
        what = {"way": name, "batch": len(maps[0])}
        if book.has("ways", (45 if way.compiled else 8) if plan.cuda else 2, **what):
            guarded(book, plan, "ways", what, partial(agreement, plan, way, maps, truth))


def evaluations(book: Book, plan: Plan) -> None:
    """Time of each way of drawing, EDM-L64 at the paper's size."""
    maps = first_maps(open_maps(BUNDLED / "maps"), 2 if plan.quick else 16)
    for name, way in plan.ways().items():
        what = {"way": name, "size": plan.size, "batch": len(maps[0])}
        if book.has("evaluation", (60 if way.compiled else 10) if plan.cuda else 2, **what):
            guarded(book, plan, "evaluation", what, partial(evaluation, plan, way, maps))


def agreement(plan: Plan, way: Way, maps: Batch, truth: list[np.ndarray]) -> dict[str, object]:
    """Images of the bundled weights by one way; the first, plain, becomes the truth."""
    chosen = choose_model("edm-l64", BUNDLED / "edm-l64", None, plan.device, way.weights)
    generator = chosen.load(way.fast, compiled=way.compiled)
    settings = default_settings(chosen.spec.precond, 2 if plan.quick else 10, "heun")
    start = time.perf_counter()
    with way.context(plan.device):
        images = generator.draw(*maps, 0, range(len(maps[0])), settings)
        first = time.perf_counter() - start
        speeds = throughput.whole(generator, *maps, settings, 1 if plan.quick else 5)
    truth.append(images)
    inside = maps[0] > 0
    off = np.abs(images.astype(int) - truth[0])[inside]
    differences = {"largest_grey_levels": int(off.max()), "mean_grey_levels": float(off.mean())}
    return {
        "first_seconds": first,
        "images_per_second": statistics.median(speeds),
        **differences,
        "peak_gib": peak_gib(plan),
    }


def evaluation(plan: Plan, way: Way, maps: Batch) -> dict[str, object]:
    """Milliseconds of the stages of drawing a batch, and images/s of whole trajectories."""
    nfe = 2 if plan.quick else 20
    wanted = throughput.BenchmarkPlan(
        ("edm-l64",), (nfe,), plan.size, 5, "heun", True, way.fast, way.compiled, way.weights, plan.device
    )
    generator = throughput.fresh("edm-l64", wanted)
    settings = default_settings(specs.diffusion_model("edm-l64").precond, nfe, "heun")
    with way.context(plan.device):
        speeds = throughput.whole(generator, *maps, settings, 1 if plan.quick else 3)
        stages = throughput.time_stages(generator, *maps, 1 if plan.quick else wanted.repeats).seconds
    speed = {"nfe": nfe, "images_per_second": statistics.median(speeds), "slowest": min(speeds), "fastest": max(speeds)}
    times = {f"{stage}_ms": 1e3 * statistics.median(taken) for stage, taken in stages.items()}
    return {**speed, **times, "peak_gib": peak_gib(plan)}


def training(book: Book, plan: Plan) -> None:
    """Training throughput and memory at the paper's batches; a batch that does not fit is halved until it does."""
    for name in ("edm-l64",) if plan.quick else ("edm-l64", "edm-l128", "edm"):
        steps = plan.steps() if name == "edm-l64" else dict(list(plan.steps().items())[:2])
        for label, way in steps.items():
            batch, fits = 2 if plan.quick else specs.diffusion_model(name).training.batch, False
            while batch >= 1 and not fits:
                what = {"model": name, "size": plan.size, "batch": batch, "way": label}
                if not book.has("training", (60 if way.compiled else 12) if plan.cuda else 2, **what):
                    break
                fits = guarded(book, plan, "training", what, partial(one_model, name, batch, plan, way))
                batch //= 2


PARTS = {
    "machine": machine,
    "models": models,
    "evaluations": evaluations,
    "training": training,
    "ways": ways,
    "rates": rates,
}
_OPTIONAL = ("rates",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="size tiny, batches of 1 and 2, no compiler")
    parser.add_argument(
        "--parts", default=",".join(p for p in PARTS if p not in _OPTIONAL), help=f"comma separated: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--optimizer", choices=("adamw", "muon"), default="adamw", help="that the steps of training take"
    )
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(training_device(arguments.device), arguments.quick, arguments.optimizer)
    book = Book(arguments.out, arguments.seconds)
    for part in parts:
        PARTS[part](book, plan)


if __name__ == "__main__":
    main()
