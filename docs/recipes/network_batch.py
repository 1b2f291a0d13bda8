"""Draw a training batch as a segmenter's network sees it, after loading and augmentation, labels as outlines.

The dataset has been planned (`echosynth train-segmenter` or nnU-Net's own command has run on it).

Usage: python docs/recipes/network_batch.py --dataset-id 501 --out batch.png
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from echo_synth.data.tissue_colours import tissue_colours
from echo_synth.downstream.nnunet import environment
from echo_synth.files import read_json
from echo_synth.home import nnunet_folder

COLUMNS = 6
COLOURS = tissue_colours()[:4]  # a label is the id of its tissue


def batch_of(dataset_id: int, trainer: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Images (N, H, W) as normalised, and labels (N, H, W), of the first batch of a training."""
    os.environ.update(environment(), ECHOSYNTH_NNUNET_SEED=str(seed))
    folder = next(nnunet_folder("nnUNet_preprocessed").glob(f"Dataset{dataset_id:03d}_*"))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(nnUNet_results=scratch)  # read once, when nnU-Net is imported
        from nnunet_plugin import echosynth_trainers

        plans, facts = read_json(folder / "nnUNetPlans.json"), read_json(folder / "dataset.json")
        plans["continue_training"] = False
        training = getattr(echosynth_trainers, trainer)(plans, "2d", 0, facts, torch.device("cpu"))
        training.initialize()
        loader, _ = training.get_dataloaders()
        batch = training._prepared(next(loader), training=True)
        loader.close()
    labels = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
    return batch["data"][:, 0].float().numpy(), labels[:, 0].numpy().astype(np.int16)


def drawn(images: NDArray[np.float32], labels: NDArray[np.int16]) -> NDArray[np.uint8]:
    """One picture (rows, columns, 3) of all images, from their darkest to their brightest value, with the outlines of their labels."""
    low, high = images.min(), images.max()
    grey = ((images - low) / (high - low) * 255).astype(np.uint8)
    pictures = np.repeat(grey[..., None], 3, axis=-1)
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :, 1:] |= labels[:, :, 1:] != labels[:, :, :-1]
    pictures[edge] = COLOURS[labels.clip(0, 3)][edge] | 64
    rows = [np.concatenate(list(pictures[i : i + COLUMNS]), axis=1) for i in range(0, len(pictures), COLUMNS)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-id", type=int, required=True)
    parser.add_argument("--trainer", default="nnUNetTrainerEchoSynth_cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images, labels = batch_of(options.dataset_id, options.trainer, options.seed)
    corner = images[:, :8, :8].reshape(len(images), -1)
    print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]} px, {images.min():.2f} to {images.max():.2f}")
    print(f"upper left corner: {corner.min():.3f} to {corner.max():.3f}")
    Image.fromarray(drawn(images, labels)).save(options.out)


if __name__ == "__main__":
    main()
