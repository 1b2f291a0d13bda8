"""What each lever of EDM-L64's training gives, and what it costs: one training a lever, all of the same number of images.

    python docs/recipes/levers.py --dataset-id 501 --vae RUN --maps MAPS --out FOLDER [--images 5000] [--only NAME ...]

Each training is `train --model edm-l64 --size tiny` on the same Γ-VAE, with options or a preset of its own (`LEVERS`). It then
draws images on MAPS, those of the validation patients (`make-maps --patients`), which a segmenter trained on real images
reads (`train-segmenter --dataset-id 501 --trainer nnUNetTrainerEchoSynth_cpu`). FOLDER gets levers.csv, a row for each training
that has ended. Killed, it goes on where it was; `--only` divides the work.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from decomposition import agreement, evenly_of, images_of, of_maps, read_by_segmenter, written
from PIL import Image

from echo_synth import specs
from echo_synth.files import write_json
from echo_synth.generation.engine import ImageGenerator
from echo_synth.generation.request import sampler_for
from echo_synth.generation.sources import SampledImages, choose_model
from echo_synth.runs.folder import STATE


@dataclass(frozen=True)
class Lever:
    """One training: options of `train`, and what differs in the preset.

    Attributes:
        training: keys of the preset's `size_training` of the size.
        formulation: the preset's `precond_arguments`.
        share: of the images, where one takes longer.
    """

    options: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    formulation: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    size: str = "tiny"
    share: float = 1.0


PAPER = {"optimizer": "adamw", "lr": 1e-3, "lr_decay": 0.0, "stratified": False}
MUON = {"optimizer": "muon", "lr": 4e-3}
LEVERS = {
    "preset": Lever(),
    "preset-1": Lever(seed=1),
    "spade-only": Lever(("--spade-only",)),
    "spade-only-1": Lever(("--spade-only",), seed=1),
    "hard-maps": Lever(("--hard-maps",)),
    "no-phase": Lever(("--no-phase",)),
    "levels-one-by-one": Lever(training={"stratified": False}),
    "no-decay": Lever(training={"lr_decay": 0.0}),
    "adamw": Lever(training={"optimizer": "adamw", "lr": 1e-3}),
    "levels-higher": Lever(formulation={"p_mean": -0.4, "p_std": 1.0}),
    "map-loss": Lever(("--map-loss", "0.3")),
    "small-equal-time": Lever(training=MUON, size="small", share=0.3),  # about: it takes 2 to 4 times as long an image
    "paper": Lever(("--spade-only", "--hard-maps", "--no-phase"), PAPER),
}


def with_preset(lever: Lever, folder: Path) -> Path:
    """A folder with data_specs whose preset is the lever's; a program started in it reads that."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(specs.root(), folder / "data_specs", ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    file = folder / "data_specs/presets/models/edm-l64.yaml"
    preset = yaml.safe_load(file.read_text(encoding="utf-8"))
    preset["size_training"][lever.size].update(lever.training)
    preset["precond_arguments"] = lever.formulation
    file.write_text(yaml.safe_dump(preset), encoding="utf-8")
    return folder


def train(lever: Lever, run: Path, options: argparse.Namespace) -> None:
    """Train, or continue to."""
    home = with_preset(lever, run.with_name(f"{run.name}-preset"))
    images = round(options.images * lever.share)
    command = ["train", "--model", "edm-l64", "--dataset-id", str(options.dataset_id), "--vae", str(options.vae)]
    command += ["--size", lever.size, "--images", str(images), "--seed", str(lever.seed), "--out", str(run)]
    command += [*lever.options, *["--compile"] * options.compile, *["--resume"] * (run / STATE).is_file()]
    # Its folder comes first among those that modules are looked for in.
    subprocess.run([sys.executable, "-m", "cli.main", *command], check=True, cwd=home)


def judge(name: str, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one lever: agreement with the maps, losses, images a second."""
    chosen = choose_model("edm-l64", run, None, "auto", "auto")
    model: ImageGenerator = chosen.with_texture("on").load()
    source = SampledImages(model, sampler_for(chosen, options.nfe, "auto"), chosen.precision)
    cases = of_maps(options.maps, options.count, np.zeros((0, 256, 256), np.uint8))
    begun = time.perf_counter()
    images = written(run.with_name(f"{name}-images"), cases, partial(images_of, "drawn", cases, model, source))
    seconds = (time.perf_counter() - begun) / len(images)
    Image.fromarray(np.concatenate(list(evenly_of(images)[:8]), 1)).save(run.with_name(f"{name}.png"))
    masks = run.with_name(f"{name}-masks")
    read_by_segmenter(run.with_name(f"{name}-images"), masks, options.dataset_id, options.trainer)
    history = pd.read_csv(run / "history.csv")
    losses = history[history["name"] == "loss"]
    last = losses[losses["split"] == "val"].iloc[-1]
    paces = losses[losses["split"] == "train"]["images_per_second"]
    facts = {
        "images": int(last["images"]),
        "val_loss": float(last["value"]),
        "images_per_second": float(paces.median()),
    }
    read = agreement(cases, masks)
    read = {key: value for key, value in read.items() if not np.isnan(value)}  # few images may have no small cavity
    return {"lever": name, **facts, **read, "seconds_per_image": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-id", type=int, required=True, help="of the real data; its segmenter is trained")
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--nfe", type=int, default=10)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--trainer", default="nnUNetTrainerEchoSynth_cpu")
    parser.add_argument("--only", nargs="+", choices=LEVERS, default=list(LEVERS))
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    for name in ("vae", "maps", "out"):  # trainings start in a folder of their own
        setattr(options, name, getattr(options, name).resolve())
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        row = options.out / f"{name}.json"
        if not row.is_file():
            train(LEVERS[name], options.out / name, options)
            write_json(row, judge(name, options.out / name, options))
        rows = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(options.out.glob("*.json"))]
        pd.DataFrame(rows).to_csv(options.out / "levers.csv", index=False)


if __name__ == "__main__":
    main()
