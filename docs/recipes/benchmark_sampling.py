"""What each layer of the fast path gives, and how few evaluations are enough, in one process.

    python docs/recipes/benchmark_sampling.py --size paper --batch 2 --nfe 10 --trained RUN

Plain is the reference's way: float32, SPADE recomputed at every evaluation, attention as two
products and a softmax, default layout. The layers are added one by one, each over the same trajectories from the same noise. Weights are
random; those that training starts near zero are brought to full scale, or the network would
contribute nothing and all ways would agree. Differences are also measured with --trained, a
model that draws real images; its distances from the converged solution tell what Heun's
NFE are worth with a better solver.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.device import drawing_precision
from echo_synth.diffusion.unet import Modulations
from echo_synth.evaluation import solver_study, throughput
from echo_synth.generation import engine
from echo_synth.generation.engine import ImageGenerator, SamplerSettings, default_settings, image_noise
from echo_synth.generation.manifest import plan_images
from echo_synth.runs.description import build_model, describe_diffusion, describe_vae
from echo_synth.runs.find import find_diffusion, find_vae_of

BUDGETS = (6, 8, 10, 12, 15, 18, 20, 25, 30, 50, 100)
Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class KeptOnly(ImageGenerator):
    """The plain way with one change: modulations are computed once a map."""

    def modulate(self, labels: Tensor) -> Modulations:
        return self.denoiser.modulate(labels, self.dtype)


class Direct(ImageGenerator):
    """The fast way in float32 with one change: large convolutions without Winograd's savings."""

    def __init__(self, *given: Any, **named: Any) -> None:
        with patch.object(engine, "save_multiplications"):
            super().__init__(*given, **named)


class Recomputed(ImageGenerator):
    """The fast way with one change: modulations are computed at every evaluation."""

    def modulate(self, labels: Tensor) -> Modulations:
        return self.denoiser.modulate(labels, self.dtype, budget=0)


WAYS = {  # class, precision, fast, compiled
    "plain": (ImageGenerator, "fp32", False, False),
    "modulations kept": (KeptOnly, "fp32", False, False),
    "fast, fp32, modulations recomputed": (Recomputed, "fp32", True, False),
    "fast, fp32, direct convolutions": (Direct, "fp32", True, False),
    "fast, fp32": (ImageGenerator, "fp32", True, False),
    "fast, bf16": (ImageGenerator, "bf16", True, False),
    "fast, fp32, compiled": (ImageGenerator, "fp32", True, True),
    "fast, bf16, compiled": (ImageGenerator, "bf16", True, True),
    "fast, int8": (ImageGenerator, "int8", True, False),
}


def plain_attention(query: Tensor, key: Tensor, value: Tensor, **_unused: object) -> Tensor:
    """The reference's formula, whole matrix and all."""
    weights = torch.einsum("nhqc,nhkc->nhqk", query, key / query.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("nhqk,nhkc->nhqc", weights, value)


@contextmanager
def attention_of(way: str) -> Iterator[None]:
    with patch.object(F, "scaled_dot_product_attention", plain_attention) if "fast" not in way else nullcontext():
        yield


def awaken(module: nn.Module) -> None:
    """Bring layers that start near zero to the scale of the others."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and 0 < float(layer.weight.detach().std()) < 1e-4:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")


def random_model(name: str, size: str, way: str) -> ImageGenerator:
    """The same untrained weights for every way."""
    spec, (kind, precision, fast, compiled) = specs.diffusion_model(name), WAYS[way]
    torch.manual_seed(0)
    network = build_model(describe_diffusion(name, size, None), 0)
    awaken(network)
    vae = build_model(describe_vae(spec.vae, size), 0).eval() if spec.vae else None
    return kind(network.eval(), vae, "cpu", drawing_precision(precision, "cpu"), fast, compiled=compiled)  # type: ignore[arg-type]


def trained_model(run: Path, name: str, way: str) -> ImageGenerator:
    spec, (kind, precision, fast, compiled) = specs.diffusion_model(name), WAYS[way]
    weights = find_diffusion(name, run)
    vae = find_vae_of(weights.description, spec.vae, weights.folder).load() if spec.vae else None
    return kind(weights.load(), vae, "cpu", drawing_precision(precision, "cpu"), fast, compiled=compiled)  # type: ignore[arg-type]


def seconds(generator: ImageGenerator, maps: Maps, how: SamplerSettings, repeats: int) -> list[float]:
    """Durations of whole trajectories with decoding, after one evaluation that is not counted (it compiles)."""
    indices = range(len(maps[0]))
    generator.draw(*maps, 0, indices, SamplerSettings(1, "euler", how.discretization))
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        generator.draw(*maps, 0, indices, how)
        taken.append(time.perf_counter() - start)
    return taken


def fields(generator: ImageGenerator, maps: Maps, how: SamplerSettings) -> tuple[Tensor, NDArray[np.uint8]]:
    noise = np.stack([image_noise(0, i, generator.resolution) for i in range(len(maps[0]))])
    found = generator.fields(*maps, noise, how)
    return found, generator.images(found, maps[0])


def difference(
    one: tuple[Tensor, NDArray[np.uint8]], other: tuple[Tensor, NDArray[np.uint8]], inside: NDArray[np.bool_]
) -> str:
    grey = (one[1].astype(float) - other[1])[inside]
    rms = max(float(np.sqrt((grey**2).mean())), 1e-9)
    return (
        f"fields differ by at most {float((one[0] - other[0]).abs().max()):.2g}, "
        f"images by at most {np.abs(grey).max():.0f} grey levels, PSNR in the sector {20 * np.log10(255 / rms):.1f} dB"
    )


def compare(
    load: object, maps: Maps, how: SamplerSettings, repeats: int, ways: Sequence[str] = tuple(WAYS)
) -> dict[str, float]:
    """Seconds an image of every way; prints each with its difference from the plain one."""
    medians: dict[str, float] = {}
    truth = None
    for way in ways:
        generator = load(way)  # type: ignore[operator]
        with attention_of(way):
            taken = seconds(generator, maps, how, repeats) if repeats else []
            drawn = fields(generator, maps, how)
        truth = truth or drawn
        speed = ""
        if taken:
            medians[way] = statistics.median(taken) / len(maps[0])
            speed = f"{medians[way]:.3f} s an image ({min(taken):.2f} to {max(taken):.2f} s a batch), {medians['plain'] / medians[way]:.2f} times plain; "
        print(f"  {way}: {speed}{difference(drawn, truth, maps[0] > 0)}", flush=True)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edm-l64")
    parser.add_argument("--size", default="paper")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--nfe", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--trained", type=Path, help="run folder of a trained model of that name; without, no study")
    parser.add_argument("--reference-nfe", type=int, default=100, help="Heun's, whose distance is to be matched")
    parser.add_argument("--maps", type=Path, default=specs.root() / "bundled/maps")
    arguments = parser.parse_args()
    name, precond = arguments.model, specs.diffusion_model(arguments.model).precond
    folder = open_maps(arguments.maps)
    rows = plan_images(folder.index, 8, 0)
    tissues = np.stack([folder.read(m) for m in rows["map"]])
    views = np.asarray([int(v == "4CH") for v in rows["view"]], np.uint8)
    few = (tissues[: arguments.batch], views[: arguments.batch])
    print(throughput.machine("cpu"))
    print(f"{name} {arguments.size}, random weights, Heun {arguments.nfe} NFE, batch {arguments.batch}:")
    how = default_settings(precond, arguments.nfe, "heun")
    cost = compare(lambda way: random_model(name, arguments.size, way), few, how, arguments.repeats, arguments.ways)
    if arguments.trained is None:
        return
    reference = default_settings(precond, arguments.reference_nfe, "heun")
    print(f"{arguments.trained}, Heun {arguments.reference_nfe} NFE, 8 maps:")
    compare(lambda way: trained_model(arguments.trained, name, way), (tissues, views), reference, 0)
    table = solver_study.study(
        trained_model(arguments.trained, name, "fast, fp32"), tissues, views, precond, BUDGETS, 1001, 0
    )
    print(table.pivot(index="nfe", columns="solver", values="rmse").to_string(float_format="%.4g"))
    fastest = min(cost, key=cost.__getitem__)
    ratio = cost["plain"] / cost[fastest]
    print(f"equal NFE ({fastest}): {ratio:.2f} times the reference's images/s")
    for solver, enough in solver_study.equal_distance(table, "heun", arguments.reference_nfe).items():
        print(
            f"equal distance ({solver} at {enough} for Heun at {arguments.reference_nfe}): "
            f"{ratio * arguments.reference_nfe / enough:.1f} times"
        )


if __name__ == "__main__":
    main()
