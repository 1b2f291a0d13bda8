"""Seconds an image of EDM-L64 as the paper has it and as its preset has it today, piece by piece, at equal NFE.

    python docs/recipes/benchmark_conditions.py --nfe 10 --count 32 --repeats 5

Ways are drawn in turn in one process, with random weights on the bundled maps: the paper's form with a Γ-VAE of size tiny; the
preset's conditions (shares of tissues, the phase, the map among the inputs); the Γ-VAE of size light; its texture.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.data.tissues import visible
from echo_synth.device import drawing_precision
from echo_synth.generation.engine import ImageGenerator, default_settings
from echo_synth.runs.description import build_model, describe_diffusion, describe_vae
from echo_synth.runs.folder import open_run
from echo_synth.types import frame_number

WAYS = {  # size of the Γ-VAE, the preset's conditions, the texture
    "the paper's form": ("tiny", False, False),
    "the preset's conditions": ("tiny", True, False),
    "and the Γ-VAE light": ("light", True, False),
    "and the texture": ("light", True, True),
}


def generator(vae_size: str, conditions: bool, texture: bool) -> ImageGenerator:
    spec = specs.diffusion_model("edm-l64")
    network = describe_diffusion("edm-l64", "tiny", None, spec.size_conditions["tiny"] if conditions else None)
    vae = build_model(describe_vae("gamma-vae-64", vae_size)).eval()
    bundled = open_run(specs.root() / "bundled/gamma-vae-64", "vae").load_texture() if texture else None
    return ImageGenerator(build_model(network).eval(), vae, "cpu", drawing_precision("auto", "cpu"), texture=bundled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, default=10)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    maps = open_maps(specs.root() / "bundled/maps")
    rows = maps.index.iloc[: options.count]
    tissues = np.stack([visible(maps.read_whole(name)) for name in rows["map"]])
    frames = np.array([frame_number(v, p) for v, p in zip(rows["view"], rows["phase"], strict=True)], np.uint8)
    settings = default_settings("edm", options.nfe, "dpmpp-2m")
    made = {name: generator(*way) for name, way in WAYS.items()}
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for repeat in range(options.repeats + 1):  # the first one is not counted
        for name, model in made.items():
            begun = time.perf_counter()
            for start in range(0, len(tissues), options.batch):
                at = slice(start, start + options.batch)
                model.draw(tissues[at], frames[at], 0, list(range(len(tissues[at]))), settings, lambda: None)
            if repeat:
                taken[name].append((time.perf_counter() - begun) / len(tissues))
    first = statistics.median(taken["the paper's form"])
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        span = f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f}"
        print(f"{name}: {1000 * middle:.1f} ms an image ({span}), {middle / first:.2f} times the paper's form")
    print(f"{torch.get_num_threads()} threads, {options.nfe} NFE, batch {options.batch}")


if __name__ == "__main__":
    main()
