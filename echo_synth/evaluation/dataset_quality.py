"""What a synthetic dataset is like: distances to real images, diversity, texture, agreement with its maps."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING, RawDataset
from echo_synth.data.resize import resize_grey
from echo_synth.downstream.classifier import normalise
from echo_synth.errors import DataError
from echo_synth.evaluation.image_sets import ImageSet
from echo_synth.evaluation.masks import check_pair
from echo_synth.evaluation.statistics import number
from echo_synth.metrics.bootstrap import patient_statistic
from echo_synth.metrics.frechet import frechet_distance, kernel_distance
from echo_synth.metrics.overlap import dice, structure_mask
from echo_synth.metrics.speckle import Speckle, speckle
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.runs.folder import ClassifierRun
from echo_synth.vae.perceptual import FeatureDistance

_PAIRS = 200
_BATCH = 32
_CAVITY = 1
_AREA_CLASSES = ((0, 1500), (1500, 3000), (3000, 4500), (4500, np.inf))  # pixels at 256 x 256


@torch.inference_mode()
def classifier_features(run: ClassifierRun, pixels: NDArray[np.uint8], device: str) -> NDArray[np.float64]:
    """What the view classifier knows of each image (N, H, W) before it decides, (N, D)."""
    module: Any = run.load().to(device).eval()
    side, parts = run.description.resolution, []
    for start in track(range(0, len(pixels), _BATCH), -(-len(pixels) // _BATCH), "features", "batches"):
        small = np.stack([resize_grey(p, (side, side)) for p in pixels[start : start + _BATCH]])
        x = torch.from_numpy(small)[:, None].to(device)
        parts.append(module.forward_head(module.forward_features(normalise(x)), pre_logits=True).double().cpu().numpy())
    return np.concatenate(parts)


def feature_distances(
    synthetic: NDArray[np.float64], real: NDArray[np.float64], held_out: NDArray[np.float64], seed: int
) -> dict[str, Any]:
    """Distances of synthetic to real training images, and of unseen real ones to them: what a perfect generator would reach.

    Both count the same number of images, drawn at random from each, because the Fréchet distance depends on it:
    held-out images in the order of their patients would be few hearts, each four times.

    Args:
        synthetic, real, held_out: features (N, D), (M, D) and (K, D).
    """
    n = min(len(synthetic), len(held_out))
    rng = np.random.default_rng(seed)
    drawn, unseen = (features[rng.permutation(len(features))[:n]] for features in (synthetic, held_out))
    result: dict[str, Any] = {"images": n}
    for name, features in (("synthetic", drawn), ("unseen_real", unseen)):
        mean, std = kernel_distance(features, real, seed=seed)
        frechet = frechet_distance(features, real)
        result[name] = {"frechet_distance": frechet, "kernel_distance": mean, "kernel_distance_std": std}
    return result


@torch.inference_mode()
def diversity(images: ImageSet, distance: FeatureDistance, seed: int) -> dict[str, float]:
    """Mean perceptual distance of random pairs of different patients in the same view and phase.

    Raises DataError when there is no such pair.
    """
    pairs = _pairs(images, seed)
    if not len(pairs):
        raise DataError(
            f"{len(images.pixels)} images hold no two patients in one view and phase; judge more with --count"
        )
    parts = []
    for start in range(0, len(pairs), _BATCH):
        rows = pairs[start : start + _BATCH]
        a, b = (torch.from_numpy(images.pixels[rows[:, k]])[:, None].float() / 255 for k in (0, 1))
        parts.append(distance(a, b, ((a > 0) & (b > 0)).float()).numpy())
    values = np.concatenate(parts)
    return {"mean": float(values.mean()), "std": float(values.std()), "pairs": len(pairs)}


def _pairs(images: ImageSet, seed: int) -> NDArray[np.intp]:
    """Positions (up to 200, 2) of random pairs of different patients in the same view and phase."""
    rng = np.random.default_rng(seed)
    group = (images.cases["view"] + images.cases["phase"]).to_numpy()
    patient = images.patients
    pairs: list[tuple[int, int]] = []
    for i in rng.permutation(len(group)):
        others = np.flatnonzero((group == group[i]) & (patient != patient[i]))
        if len(others):
            pairs.append((int(i), int(rng.choice(others))))
        if len(pairs) == _PAIRS:
            break
    return np.array(pairs, np.intp).reshape(-1, 2)


def textures(images: ImageSet) -> pd.DataFrame:
    """`Speckle` of every image, a row each."""
    rows: list[Speckle] = [
        speckle(p, p > 0, (float(s[0]), float(s[1]))) for p, s in zip(images.pixels, images.spacing, strict=True)
    ]
    return pd.DataFrame([asdict(r) for r in rows])


def texture_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Median and quartiles of each measure of `textures`."""
    quartiles = table.quantile([0.25, 0.5, 0.75])
    return {
        str(c): {"median": number(q[0.5]), "quartiles": [number(q[0.25]), number(q[0.75])]}
        for c, q in quartiles.items()
    }


def intensity_histogram(images: ImageSet) -> NDArray[np.float64]:
    """Shares (256,) of the grey levels inside sectors."""
    counts = np.bincount(images.pixels[images.pixels > 0], minlength=256).astype(np.float64)
    return np.asarray(counts / max(1, counts.sum()))


def agreement_with_maps(dataset: RawDataset, cases: pd.DataFrame, predictions: Path) -> pd.DataFrame:
    """Dice of a segmenter's masks against the maps that the images were drawn from.

    Returns:
        columns case, dice_<structure>, agreement (their mean), area_read and area_map (of the cavity, pixels of the map), a
        row for each of `cases`.

    Raises DataError when a prediction is missing, lies on another grid than its map or holds a label that the dataset does not
    know (`masks.check_pair`).
    """
    for case in cases["case"]:
        if not (predictions / f"{case}{ENDING}").is_file():
            raise DataError(f"{predictions}: no prediction for {case} of {dataset.name}; predict all of its images")
    jobs = [(c, s) for c, s in zip(cases["case"], cases["split"], strict=True)]
    table = pd.DataFrame(list(parallel_map(partial(_agreement, dataset=dataset, predictions=predictions), jobs, 1)))
    return table.assign(agreement=table.filter(like="dice_").mean(axis=1))


def _agreement(job: tuple[str, str], dataset: RawDataset, predictions: Path) -> dict[str, Any]:
    case, split = job
    drawn_from, read = read_image(dataset.label_path(case, split)), read_image(predictions / f"{case}{ENDING}")
    try:
        check_pair(case, read, drawn_from, dataset.subject, in_mm=False)
    except DataError as e:
        raise DataError(f"{predictions}: {e}; the reference is the map in {dataset.name}") from None
    guide, mask = drawn_from.pixels, read.pixels
    scores = {
        f"dice_{name}": dice(structure_mask(mask, values), structure_mask(guide, values))  # type: ignore[arg-type]
        for name, values in dataset.subject.structures.items()
    }
    areas = {"area_read": int((mask == _CAVITY).sum()), "area_map": int((guide == _CAVITY).sum())}
    return {"case": case} | scores | areas


def cavity_areas(table: pd.DataFrame, seed: int = 0) -> list[dict[str, Any]]:
    """The cavity's area as it is read in the images against that of their maps, by its size.

    A model that leans to the average heart draws small cavities too large and large ones too small.

    Args:
        table: columns patient, area_read, area_map.

    Returns:
        a class each: low, high (pixels; None: no bound), images, ratio (of the sums), ci95 (patients resampled).
    """
    return [_areas(table[table["area_map"].between(low, high, "left")], low, high, seed) for low, high in _AREA_CLASSES]


def _areas(rows: pd.DataFrame, low: float, high: float, seed: int) -> dict[str, Any]:
    read, drawn = rows["area_read"].to_numpy(float), rows["area_map"].to_numpy(float)
    entry: dict[str, Any] = {"low": low, "high": None if np.isinf(high) else high, "images": len(rows)}
    if not drawn.sum():  # no images, or maps without a cavity
        return entry | {"ratio": None, "ci95": [None, None]}
    _, ends = patient_statistic(lambda i: read[i].sum() / drawn[i].sum(), rows["patient"].to_numpy(str), seed=seed)
    return entry | {"ratio": float(read.sum() / drawn.sum()), "ci95": [number(end) for end in ends]}
