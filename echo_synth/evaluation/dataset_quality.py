"""What a synthetic dataset is like: distances to real images, texture, agreement with its maps, privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import read_pixels
from echo_synth.data.nnunet_raw import ENDING, RawDataset
from echo_synth.data.resize import resize_grey
from echo_synth.downstream.classifier import normalise
from echo_synth.errors import DataError
from echo_synth.evaluation.statistics import number
from echo_synth.metrics import privacy
from echo_synth.metrics.frechet import frechet_distance, kernel_distance
from echo_synth.metrics.overlap import dice, structure_mask
from echo_synth.metrics.speckle import Speckle, speckle
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.runs.folder import ClassifierRun
from echo_synth.vae.perceptual import FeatureDistance

SIDE = 256  # of the grid on which images are compared
_SMALL = 64  # of the grid on which copies are looked for
_PAIRS = 200
_BATCH = 32


@dataclass(frozen=True)
class ImageSet:
    """Images (N, 256, 256) uint8 with their rows of cases.csv, and mm a pixel of that grid (N, 2)."""

    pixels: NDArray[np.uint8]
    cases: pd.DataFrame
    spacing: NDArray[np.float64]

    def split(self, name: str) -> ImageSet:
        """Those of one split."""
        rows = (self.cases["split"] == name).to_numpy()
        return ImageSet(self.pixels[rows], self.cases[rows].reset_index(drop=True), self.spacing[rows])


def read_images(dataset: RawDataset, cases: pd.DataFrame, workers: int | None = None) -> ImageSet:
    """Images of `cases` on the common grid. Raises DataError for an unreadable one."""
    paths = [dataset.image_path(c, s) for c, s in zip(cases["case"], cases["split"], strict=True)]
    # A function of a module that loads no torch: what a process must import before its first image counts.
    work = partial(nnunet_raw.read_grey, size=(SIDE, SIDE))
    pixels = np.stack(list(track(parallel_map(work, paths, workers), len(paths), f"read {dataset.name}", "images")))
    spacing = np.stack([cases["spacing_row_mm"] * cases["rows"] / SIDE, cases["spacing_column_mm"] * cases["columns"] / SIDE], 1)  # fmt: skip
    return ImageSet(pixels, cases.reset_index(drop=True), spacing)


def chosen_cases(dataset: RawDataset, count: int | None) -> pd.DataFrame:
    """`count` cases spread evenly over a dataset; all by default."""
    cases = dataset.cases()
    if count is None or count >= len(cases):
        return cases
    return cases.iloc[np.linspace(0, len(cases) - 1, count).astype(int)]


# --- distances ---------------------------------------------------------------------------------


@torch.inference_mode()
def classifier_features(run: ClassifierRun, pixels: NDArray[np.uint8], device: str) -> NDArray[np.float64]:
    """What the view classifier knows of each image before it decides, (N, D)."""
    module: Any = run.load().to(device).eval()
    side, parts = run.description.resolution, []
    for start in track(range(0, len(pixels), _BATCH), -(-len(pixels) // _BATCH), "features", "batches"):
        small = np.stack([resize_grey(p, (side, side)) for p in pixels[start : start + _BATCH]])
        x = torch.from_numpy(small)[:, None].to(device)
        parts.append(module.forward_head(module.forward_features(normalise(x)), pre_logits=True).double().cpu().numpy())
    return np.concatenate(parts)


def feature_distances(synthetic: NDArray[np.float64], real: NDArray[np.float64], held_out: NDArray[np.float64], seed: int) -> dict[str, Any]:  # fmt: skip
    """Distances of synthetic to real training images, and of unseen real ones to them: what a perfect generator would reach.

    Both count the same number of images, because the Fréchet distance depends on it.
    """
    n = min(len(synthetic), len(held_out))
    pick = np.random.default_rng(seed).permutation(len(synthetic))[:n]
    result: dict[str, Any] = {"images": n}
    for name, features in (("synthetic", synthetic[pick]), ("unseen_real", held_out[:n])):
        mean, std = kernel_distance(features, real, seed=seed)
        result[name] = {"frechet_distance": frechet_distance(features, real), "kernel_distance": mean, "kernel_distance_std": std}  # fmt: skip
    return result


@torch.inference_mode()
def diversity(images: ImageSet, distance: FeatureDistance, seed: int) -> dict[str, float]:
    """Mean perceptual distance of random pairs of different patients in the same view and phase."""
    rng = np.random.default_rng(seed)
    group = (images.cases["view"] + images.cases["phase"]).to_numpy()
    patient = images.cases["patient"].to_numpy()
    pairs: list[tuple[int, int]] = []
    for i in rng.permutation(len(group)):
        others = np.flatnonzero((group == group[i]) & (patient != patient[i]))
        if len(others):
            pairs.append((int(i), int(rng.choice(others))))
        if len(pairs) == _PAIRS:
            break
    found = []
    for start in range(0, len(pairs), _BATCH):
        rows = np.array(pairs[start : start + _BATCH])
        a, b = (torch.from_numpy(images.pixels[rows[:, k]])[:, None].float() / 255 for k in (0, 1))
        found.append(distance(a, b, ((a > 0) & (b > 0)).float()).numpy())
    if not found:
        raise DataError(f"{len(group)} images hold no two patients in one view and phase; judge more with --count")
    values = np.concatenate(found)
    return {"mean": float(values.mean()), "std": float(values.std()), "pairs": len(pairs)}


def textures(images: ImageSet) -> pd.DataFrame:
    """`Speckle` of every image, a row each."""
    rows: list[Speckle] = [
        speckle(p, p > 0, (float(s[0]), float(s[1]))) for p, s in zip(images.pixels, images.spacing, strict=True)
    ]
    return pd.DataFrame([asdict(r) for r in rows])


def intensity_histogram(images: ImageSet) -> NDArray[np.float64]:
    """Shares (256,) of the grey levels inside sectors."""
    counts = np.bincount(images.pixels[images.pixels > 0], minlength=256).astype(np.float64)
    return np.asarray(counts / max(1, counts.sum()))


# --- agreement with the guiding map ------------------------------------------------------------


def agreement_with_maps(dataset: RawDataset, cases: pd.DataFrame, predictions: Path) -> pd.DataFrame:
    """Dice of a segmenter's masks against the maps that the images were drawn from: case, dice_<structure>, agreement.

    Raises DataError when a prediction is missing.
    """
    for case in cases["case"]:
        if not (predictions / f"{case}{ENDING}").is_file():
            raise DataError(f"{predictions}: no prediction for {case} of {dataset.name}; predict all of its images")
    jobs = [(c, s) for c, s in zip(cases["case"], cases["split"], strict=True)]
    found = parallel_map(partial(_agreement, dataset=dataset, predictions=predictions), jobs, 1)
    table = pd.DataFrame(list(found))
    return table.assign(agreement=table.filter(like="dice_").mean(axis=1))


def _agreement(job: tuple[str, str], dataset: RawDataset, predictions: Path) -> dict[str, Any]:
    case, split = job
    guide = read_pixels(dataset.label_path(case, split))
    mask = read_pixels(predictions / f"{case}{ENDING}")
    structures = specs.labels().structures
    return {"case": case} | {
        f"dice_{name}": dice(structure_mask(mask, v), structure_mask(guide, v))  # type: ignore[arg-type]
        for name, v in structures.items()
    }


# --- privacy -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spaces:
    """Nearest training image of each image: in pixels, and in features where there is a classifier."""

    pixels: privacy.Neighbours
    features: privacy.Neighbours | None

    def flagged(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """Images (N,) nearer to a training image than either limit."""
        far = self.pixels.similarity > limits["pixels"]
        return far | (self.features.similarity > limits["features"]) if self.features is not None else far


def nearest_training(
    images: ImageSet, training: ImageSet, features: NDArray[np.float64] | None, known: NDArray[np.float64] | None
) -> Spaces:
    """Nearest training images of `images`; `features` (N, D) and `known` (M, D) of both."""
    small, references = _shrunk(images.pixels), _shrunk(training.pixels)
    chunks = [small[i : i + _BATCH] for i in range(0, len(small), _BATCH)]
    parts = list(track(map(partial(privacy.pixel_neighbours, references=references), chunks), len(chunks), "neighbours", "batches"))  # fmt: skip
    joined = privacy.Neighbours(np.concatenate([p.index for p in parts]), np.concatenate([p.similarity for p in parts]))
    embedded = None
    if features is not None and known is not None:
        embedded = privacy.embedding_neighbours(features, known)
    return Spaces(joined, embedded)


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = F.interpolate(torch.from_numpy(pixels)[:, None].float(), size=(_SMALL, _SMALL), mode="area")[:, 0]
    return small.double().numpy()


def limits_of(unseen: Spaces, rate: float) -> dict[str, float]:
    """Thresholds that flag a share `rate` of unseen real images, half of it in each space that is looked at."""
    share = rate / 2 if unseen.features is not None else rate
    found = {"pixels": privacy.threshold(unseen.pixels.similarity, share)}
    if unseen.features is not None:
        found["features"] = privacy.threshold(unseen.features.similarity, share)
    return found


def privacy_summary(flagged: NDArray[np.bool_]) -> dict[str, Any]:
    """Count and share of flagged images with a Clopper-Pearson interval."""
    low, high = privacy.share_interval(int(flagged.sum()), len(flagged))
    return {"flagged": int(flagged.sum()), "images": len(flagged), "share": float(flagged.mean()), "ci95": [low, high]}


def texture_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Median and quartiles of each measure."""
    quartiles = table.quantile([0.25, 0.5, 0.75])
    return {str(c): {"median": number(quartiles[c][0.5]), "quartiles": [number(quartiles[c][0.25]), number(quartiles[c][0.75])]} for c in table}  # fmt: skip
