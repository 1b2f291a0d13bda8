"""Every diffusion model, at two sizes, learns four real cases by heart: a check that all of them train.

    python docs/recipes/overfit.py --dataset-id 501 --steps 200 --until 0.1 --out docs/figures

Four cases, their noise and their noise levels are fixed, so that the loss can go to nothing;
each training ends when it falls below --until. Curves and their numbers go to overfit.png and overfit.csv.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.augment import GeometricRanges
from echo_synth.data.prepared import prepare
from echo_synth.diffusion.loss import denoising_loss
from echo_synth.runs.description import build_model, describe_diffusion
from echo_synth.runs.find import find_vae
from echo_synth.training.latents import FieldRecipe, kept_fields
from echo_synth.training.streams import normal
from echo_synth.training.tasks.diffusion import DiffusionTask


def curve(name: str, size: str, dataset_id: int, steps: int, lr: float, until: float) -> list[float]:
    """Losses of each step on the same four cases, up to the first below `until`."""
    spec = specs.diffusion_model(name)
    dataset = nnunet_raw.find(dataset_id)
    data = prepare(dataset)
    vae_run = find_vae(spec.vae) if spec.vae else None
    vae = vae_run.load() if vae_run else None
    rows = data.rows("train")[[0, 401, 802, 1203]] if len(data.rows("train")) > 1203 else data.rows("train")[:4]
    recipe = FieldRecipe(spec.resolution, vae_run.hash() if vae_run else None, 1, GeometricRanges(), 0, False)
    fields = kept_fields(data, rows, vae, recipe, dataset.name, "cpu")  # type: ignore[arg-type]
    task = DiffusionTask(fields, fields, "cpu", 0)
    clean, labels, sector = task.load(fields, np.arange(4))
    noise, levels = normal(0, range(4), clean.shape[1:]), torch.tensor([0.3, 0.45, 0.6, 0.75])
    module = build_model(describe_diffusion(name, size, None), 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = denoising_loss(module, clean, labels, sector, levels, noise)[0].mean()  # type: ignore[arg-type]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if losses[-1] < until:
            break
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset-id", type=int, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--until", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharex=True)
    rows = []
    for axis, name in zip(axes.flat, specs.DIFFUSION_MODELS, strict=True):
        for size in arguments.sizes:
            start = time.monotonic()
            losses = curve(name, size, arguments.dataset_id, arguments.steps, arguments.lr, arguments.until)
            rows += [[name, size, step, f"{loss:.6g}"] for step, loss in enumerate(losses)]
            axis.plot(losses, label=size)
            took = time.monotonic() - start
            print(
                f"{name} {size}: {losses[0]:.4f} to {losses[-1]:.4f} in {len(losses)} steps, {took:.0f} s", flush=True
            )
        axis.set(title=name, yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    for axis in axes[1]:
        axis.set_xlabel("step")
    for axis in axes[:, 0]:
        axis.set_ylabel("loss on four cases")
    figure.tight_layout()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out / "overfit.png", dpi=90)
    with open(arguments.out / "overfit.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["model", "size", "step", "loss"], *rows])


if __name__ == "__main__":
    main()
