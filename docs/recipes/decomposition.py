"""Where a drawn image stops following its map, and what gives it away: one row for each stage between a real image and a drawn one.

    python docs/recipes/decomposition.py --dataset-id 501 --maps MAPS --out FOLDER [--run RUN] [--nfe 10] [--count 200]

Stages: real images of the validation patients; their Γ-VAE's reconstructions from E[z], by its decoder as trained, by the finished one, and
with the texture; images drawn on their masks in these three ways; images drawn on the deformed maps of MAPS, with the texture. Each is read by a
segmenter trained on real images (`train-segmenter --dataset-id 501 --trainer nnUNetTrainerEchoSynth_cpu`), and a small network learns to tell it from the real images,
and what is drawn from the reconstructions in the same way, too (two folds of patients; area under the ROC curve, 0.5 where it cannot). FOLDER gets stages.csv and
a sheet of 4 x 8 images a stage, real ones above. What is there already is not made again. decomposition_taught.py trains a segmenter on each stage.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import open_maps
from echo_synth.data.nifti import read_pixels, write_image
from echo_synth.data.tissues import anatomy, visible
from echo_synth.evaluation.image_sets import ImageSet
from echo_synth.evaluation.real_or_synthetic import told_apart
from echo_synth.generation.engine import ImageGenerator
from echo_synth.generation.request import sampler_for
from echo_synth.generation.sources import SampledImages, TrainedModel, choose_model
from echo_synth.metrics.overlap import dice, structure_mask
from echo_synth.metrics.speckle import speckle
from echo_synth.types import frame_number
from echo_synth.vae.codec import LatentCodec

Pixels = NDArray[np.uint8]
BATCH = 8
STAGES = {
    "real": "real images",
    "decoded-as-trained": "their reconstructions from E[z], decoder as trained",
    "decoded": "the same, decoder finished",
    "decoded-textured": "the same with the texture",
    "drawn-as-trained": "drawn on their masks, decoder as trained",
    "drawn": "the same, decoder finished",
    "drawn-textured": "the same with the texture",
    "deformed-textured": "drawn on deformed maps, with the texture",
}
AREAS = ((1500, 3000), (3000, 4500), (4500, np.inf))  # px of the map's cavity, as `quality` has them


@dataclass(frozen=True)
class Cases:
    """What the images of a stage are to show.

    Attributes:
        names: (N,) of the files.
        patients: (N,).
        tissues, labels: (N, 256, 256) uint8 tissue ids of the sector, and labels of all the anatomy.
        frames: (N,) uint8, view + 2 x phase.
        spacing: (N, 2) mm.
        real: (N, 256, 256) uint8 images of these masks, or of other patients where maps are deformed.
    """

    names: list[str]
    patients: NDArray[np.str_]
    tissues: Pixels
    labels: Pixels
    frames: Pixels
    spacing: NDArray[np.float64]
    real: Pixels


def of_patients(dataset: nnunet_raw.RawDataset, count: int, split: str = "val") -> Cases:
    """At most `count` images of the validation patients, or of another split's, with their masks."""
    cases = dataset.cases()
    rows = evenly(cases[cases["split"] == split], count)
    parts = [nnunet_raw.derive(dataset, case, split, 256) for case in rows["case"]]
    frames = np.array([frame_number(v, p) for v, p in zip(rows["view"], rows["phase"], strict=True)], np.uint8)
    return Cases(
        list(rows["case"]),
        rows["patient"].to_numpy(str),
        np.stack([p.tissues for p in parts]),
        np.stack([p.labels for p in parts]).astype(np.uint8),
        frames,
        np.array([p.spacing for p in parts]),
        np.stack([p.image for p in parts]).astype(np.uint8),
    )


def of_maps(folder: Path, count: int, real: Pixels) -> Cases:
    """At most `count` maps of a folder of make-maps, spread over it."""
    maps = open_maps(folder)
    rows = evenly(maps.index, count)
    whole = [maps.read_whole(name) for name in rows["map"]]
    return Cases(
        list(rows["map"]),
        rows["patient"].to_numpy(str),
        np.stack([visible(m) for m in whole]),
        np.stack([anatomy(m) for m in whole]),
        np.array([frame_number(v, p) for v, p in zip(rows["view"], rows["phase"], strict=True)], np.uint8),
        rows[["spacing_row_mm", "spacing_column_mm"]].to_numpy(float),
        real,
    )


def evenly(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    return rows.iloc[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def generators(chosen: TrainedModel) -> dict[str, ImageGenerator]:
    """By the end of a stage's name: the decoder as trained, finished (""), and with the texture."""
    vae = chosen.vae.load_as_trained() if chosen.vae else None
    plain = chosen.with_texture("off")
    made = {"as-trained": plain.load(), "textured": chosen.with_texture("on").load(), "": plain.load()}
    codec = made["as-trained"].codec
    if vae is None or not isinstance(codec, LatentCodec):
        raise SystemExit("the run has no Γ-VAE whose decoder was finished; train-vae keeps the one as trained")
    codec.vae.load_state_dict(vae.state_dict())
    return made


def generator_of(stage: str, made: dict[str, ImageGenerator]) -> ImageGenerator:
    return next(model for end, model in made.items() if stage.endswith(end))


def images_of(stage: str, cases: Cases, model: ImageGenerator, source: SampledImages) -> Iterator[Pixels]:
    """Images (n, 256, 256) of one stage, a batch at a time."""
    for start in range(0, len(cases.names), BATCH):
        at = slice(start, start + BATCH)
        numbers = list(range(start, min(start + BATCH, len(cases.names))))
        if stage == "real":
            yield cases.real[at]
        elif stage.startswith("decoded"):
            yield decoded(model, cases.real[at], cases.tissues[at], numbers)
        else:
            yield source.draw(cases.tissues[at], cases.frames[at], 0, numbers, lambda: None)


@torch.inference_mode()
def decoded(model: ImageGenerator, images: Pixels, tissues: Pixels, numbers: list[int]) -> Pixels:
    sector = torch.from_numpy(tissues > 0)[:, None].to(model.device)
    pixels = torch.from_numpy(images)[:, None].to(model.device, torch.float32) / 255
    grey = model.images(model.codec.encode(pixels.to(model.dtype), sector.to(model.dtype)), tissues)
    if model.texture is None:
        return grey
    return np.stack([model.texture.draw(g, 0, i) for g, i in zip(grey, numbers, strict=True)])


def written(folder: Path, cases: Cases, make: Callable[[], Iterator[Pixels]]) -> Pixels:
    """The images of a stage, from `folder` where an earlier call left them all."""
    files = [folder / f"{name}_0000.nii.gz" for name in cases.names]
    folder.mkdir(parents=True, exist_ok=True)
    if not all(file.is_file() for file in files):
        images = np.concatenate(list(make()))
        for file, image, spacing in zip(files, images, cases.spacing, strict=True):
            write_image(file, image, (float(spacing[0]), float(spacing[1])))
    return np.stack([read_pixels(file) for file in files]).astype(np.uint8)


def read_by_segmenter(images: Path, masks: Path, dataset_id: int, trainer: str) -> None:
    if not masks.is_dir():
        command = ["predict-segmenter", "--dataset-id", str(dataset_id), "--trainer", trainer]
        program = str(Path(sys.executable).with_name("echosynth"))
        subprocess.run([program, *command, "--images", str(images), "--out", str(masks)], check=True)


def agreement(cases: Cases, masks: Path) -> dict[str, float]:
    """Dice with the map by structure and phase, and areas read over areas of the maps by size of the cavity."""
    read = np.stack([read_pixels(masks / f"{name}.nii.gz") for name in cases.names])
    structures = specs.labels().structures
    scores = {
        name: np.array(
            [dice(structure_mask(a, v), structure_mask(b, v)) for a, b in zip(read, cases.labels, strict=True)]
        )
        for name, v in structures.items()
    }
    cavity = next(iter(structures))
    row = {f"dice {name}": float(values.mean()) for name, values in scores.items()}
    for phase, chosen in (("ED", cases.frames < 2), ("ES", cases.frames >= 2)):
        row[f"{cavity} {phase}"] = float(scores[cavity][chosen].mean())
    value = structures[cavity]
    drawn, seen = ((np.isin(m, value)).sum((1, 2)) for m in (cases.labels, read))
    for low, high in AREAS:
        inside = (drawn >= low) & (drawn < high)
        row[f"area {low}"] = float(seen[inside].sum() / drawn[inside].sum()) if inside.any() else float("nan")
    return row


def grain(images: Pixels, spacing: NDArray[np.float64]) -> dict[str, float]:
    """Medians of the grain's amplitude and of its reach along depth and across, mm."""
    measured = [speckle(i, i > 0, (float(s[0]), float(s[1]))) for i, s in zip(images, spacing, strict=True)]
    return {key: float(np.median([getattr(m, key) for m in measured])) for key in ("grain", "axial_mm", "lateral_mm")}


def told_from(what: str, masks: Cases, known: Pixels, cases: Cases, images: Pixels) -> dict[str, float]:
    """How well a network tells images of `cases` from the `known` ones of `masks`, and its interval over patients."""
    of_known = ImageSet(known, pd.DataFrame({"patient": masks.patients}), masks.spacing)
    others = ImageSet(images, pd.DataFrame({"patient": cases.patients}), cases.spacing)
    found = told_apart(of_known, others, 0)
    names = (f"told from {what}", f"told from {what}, low", f"told from {what}, high")
    return dict(zip(names, (found["auroc"], *found["ci95"]), strict=True)) if found else {}


def sheet(real: Pixels, others: Pixels, file: Path) -> None:
    """Sixteen real images in two rows above sixteen of the stage in two rows."""
    rows = [np.concatenate(list(evenly_of(part)[at : at + 8]), 1) for part in (real, others) for at in (0, 8)]
    width = max(row.shape[1] for row in rows)
    Image.fromarray(np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in rows])).save(file)


def evenly_of(images: Pixels) -> Pixels:
    return images[np.linspace(0, len(images) - 1, min(16, len(images))).astype(int)]


def run_parser(text: str | None) -> argparse.ArgumentParser:
    """Options that say what is drawn, of this recipe and of decomposition_taught.py."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-id", type=int, required=True, help="of the real data")
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="edm-l64")
    parser.add_argument("--run", type=Path, help="default: the newest")
    parser.add_argument("--nfe", type=int, default=10)
    return parser


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--trainer", default="nnUNetTrainerEchoSynth_cpu")
    options = parser.parse_args()
    chosen = choose_model(options.model, options.run, None, "auto", "auto")
    made = generators(chosen)
    settings = sampler_for(chosen, options.nfe, "auto")
    masks = of_patients(nnunet_raw.find(options.dataset_id), options.count)
    maps = of_maps(options.maps, options.count, masks.real)
    table, done = [], {}
    for stage, what in STAGES.items():
        cases = maps if stage.startswith("deformed") else masks
        model = generator_of(stage, made)
        source = SampledImages(model, settings, chosen.precision)
        folder = options.out / stage
        images = done[stage] = written(folder / "images", cases, partial(images_of, stage, cases, model, source))
        read_by_segmenter(folder / "images", folder / "masks", options.dataset_id, options.trainer)
        row = {"stage": what, **agreement(cases, folder / "masks"), **grain(images, cases.spacing)}
        if stage != "real":
            row |= told_from("real", masks, masks.real, cases, images)
            sheet(masks.real, images, options.out / f"{stage}.png")
        if stage.startswith("drawn"):
            decoded_ones = done[stage.replace("drawn", "decoded")]
            row |= told_from("reconstructions", masks, decoded_ones, cases, images)
        table.append(row)
        print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
        pd.DataFrame(table).to_csv(options.out / "stages.csv", index=False)


if __name__ == "__main__":
    main()
