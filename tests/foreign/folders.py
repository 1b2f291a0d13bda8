"""Folders as the scripts of other programs leave them, filled from a dataset of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from echo_synth.data.nnunet_raw import RawDataset, derive

SECTOR = np.asarray([0, 1, 3, 4, 2], np.uint8)  # their ids of our tissues


def _save(folder: Path, name: str, pixels: NDArray[np.uint8], colour: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.repeat(pixels[..., None], 3, 2) if colour else pixels)
    image.save(folder / name, compress_level=1)  # packing well takes longer than all that is tested


def _cases(dataset: RawDataset, splits: tuple[str, ...]) -> list[tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Name, view, image and tissues of each case."""
    rows = [r for r in dataset.cases().itertuples() if r.split in splits]
    derived = [derive(dataset, str(r.case), str(r.split), 256) for r in rows]
    return [
        (f"{r.case}_training_0.png", str(r.view), d.image.astype(np.uint8), d.tissues)
        for r, d in zip(rows, derived, strict=True)
    ]


def sdm(out: Path, dataset: RawDataset, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """samples/ drawn, images/ real, labels/ ids, labels_visible/ stretched, combined/: all in colour."""
    rng = np.random.default_rng(0)
    for name, _, image, tissues in _cases(dataset, splits):
        grain = rng.integers(0, 4, image.shape).astype(np.uint8)  # a network leaves some outside the sector
        _save(out / "samples", name, np.maximum(image, grain), colour=True)
        _save(out / "images", name, image[::-1], colour=True)
        _save(out / "labels", name, SECTOR[tissues], colour=True)
        _save(out / "labels_visible", name, (SECTOR[tissues] / 5 * 255 + 0.5).astype(np.uint8), colour=True)
        _save(out / "combined", name, np.concatenate([image] * 4), colour=True)
    return out


def edmlx(out: Path, dataset: RawDataset, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """images/, visible_labels/ stretched by 255/10 and cut, raw_labels/ with the bytes of 64-bit numbers."""
    for name, view, image, tissues in _cases(dataset, splits):
        ids = SECTOR[tissues] + np.uint8(5 if view == "4CH" else 0)
        _save(out / "images", name, image)
        _save(out / "visible_labels", name, (ids.astype(np.float32) / 10 * 255).clip(0, 255).astype(np.uint8))
        wide = np.frombuffer(ids.astype("<i8").tobytes()[: ids.size], np.uint8).reshape(ids.shape)
        _save(out / "raw_labels", name, wide)
    return out


def annotated(out: Path, dataset: RawDataset, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """VIEW_PHASE/images/training and VIEW_PHASE/annotations/training with CAMUS's labels."""
    for name, _, image, tissues in _cases(dataset, splits):
        where = out / "_".join(name.split("_")[1:3])
        _save(where / "images/training", name, image)
        _save(where / "annotations/training", name, np.where(tissues == 4, 0, tissues).astype(np.uint8))
    return out


def beside(out: Path, dataset: RawDataset, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """NAME.png and NAME_mask.png with our tissue ids; names tell nothing."""
    for number, (_, _, image, tissues) in enumerate(_cases(dataset, splits)):
        _save(out, f"img{number:03d}.png", image)
        _save(out, f"img{number:03d}_mask.png", tissues)
    return out
