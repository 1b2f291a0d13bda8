"""Where the sampling loop spends its time, operator by operator, and what share of the machine's peak it reaches.

    python docs/recipes/profile_sampling.py --size tiny --batch 8 --precision bf16

The peak is measured, not read off a data sheet: products of large matrices by the same library on the same threads. The
loop's operations are counted by PyTorch (convolutions and matrix products; elementwise work counts as nothing), its time is that of
evaluations after a first one that is not counted, with modulations kept as `generate` keeps them. Random weights.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from benchmark_sampling import WAYS, random_model
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.evaluation import throughput
from echo_synth.generation.engine import ImageGenerator, default_settings, image_noise
from echo_synth.generation.manifest import plan_images
from echo_synth.types import frame_number

SIDE, REPEATS = 4096, 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak(precision: str) -> float:
    """Operations a second of the best of some products of matrices SIDE x SIDE."""
    one, other = (torch.randn(SIDE, SIDE).to(DTYPES[precision]) for _ in range(2))
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        one @ other
        taken.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(taken)


def trajectory(generator: ImageGenerator, batch: int, nfe: int) -> tuple[object, object, object]:
    """What `ImageGenerator.solve` takes for the first maps of the bundle."""
    folder = open_maps(specs.root() / "bundled/maps")
    rows = plan_images(folder.index, batch, 0)
    tissues = np.stack([folder.read(m) for m in rows["map"]])
    frames = np.array([frame_number(v, p) for v, p in zip(rows["view"], rows["phase"], strict=True)], np.uint8)
    noise = np.stack([image_noise(0, i, generator.resolution) for i in range(batch)])
    return (
        generator.guide(tissues, frames),
        noise,
        default_settings(generator.denoiser.precond.discretization, nfe, "euler"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edm-l64")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--nfe", type=int, default=4)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--rows", type=int, default=12, help="operators in the table")
    arguments = parser.parse_args()
    way = f"fast, {arguments.precision}"
    assert way in WAYS
    generator = random_model(arguments.model, arguments.size, way)
    work = trajectory(generator, arguments.batch, arguments.nfe)
    generator.solve(*trajectory(generator, arguments.batch, 1))  # type: ignore[arg-type]
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        generator.solve(*work)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)
    with FlopCounterMode(display=False) as counter:
        generator.solve(*work)  # type: ignore[arg-type]
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        generator.solve(*work)  # type: ignore[arg-type]
    rate, most = counter.get_total_flops() / min(taken), peak(arguments.precision)
    print(throughput.machine("cpu"))
    print(
        f"{arguments.model} {arguments.size}, {arguments.precision}, batch {arguments.batch}, {torch.get_num_threads()} threads: "
        f"{1e3 * min(taken) / arguments.nfe / arguments.batch:.2f} ms an evaluation of an image (best of {REPEATS}), "
        f"{counter.get_total_flops() / 1e9 / arguments.nfe / arguments.batch:.2f} GFLOP\n"
        f"{rate / 1e9:.0f} of {most / 1e9:.0f} GFLOP/s: {rate / most:.0%} of the measured peak"
    )
    rows = sorted(recorded.key_averages(), key=lambda r: -r.self_cpu_time_total)
    total = sum(r.self_cpu_time_total for r in rows)
    print("| operator | share of the time | calls an evaluation |\n| --- | ---: | ---: |")
    for row in rows[: arguments.rows]:
        print(f"| {row.key} | {row.self_cpu_time_total / total:.1%} | {row.count / arguments.nfe:.0f} |")


if __name__ == "__main__":
    main()
