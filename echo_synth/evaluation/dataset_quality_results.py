"""quality from end to end: read both datasets, measure, and what is to be kept of the synthetic one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data import mix
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError
from echo_synth.evaluation import copies, dataset_quality
from echo_synth.evaluation.copies import Spaces
from echo_synth.evaluation.image_sets import ImageSet, read_images
from echo_synth.evaluation.planted_copies import planted_recall
from echo_synth.evaluation.real_or_synthetic import told_apart
from echo_synth.evaluation.statistics import Resampling, summarise
from echo_synth.metrics import privacy
from echo_synth.runs.folder import ClassifierRun
from echo_synth.vae.perceptual import FeatureDistance

_KNOWN_OF_A_CASE = ("case", "source_case", "patient", "view", "phase")
_SHOWN = 6  # pairs of images that are shown


@dataclass(frozen=True)
class QualityInputs:
    """What is judged, and with what.

    Attributes:
        synthetic, real: raw datasets; the real one with its train, val and test cases.
        cases: rows of the synthetic dataset's cases.csv that are judged.
        classifier: view classifier trained on `real`, whose features count; None leaves them out.
        predictions: masks of the synthetic images by a segmenter trained on `real`, or None.
        perceptual: (name, distance) for diversity, or None.
        rate: share of unseen real images that the copy thresholds flag.
        low_agreement: mean Dice with the map below which an image is flagged.
    """

    synthetic: RawDataset
    real: RawDataset
    cases: pd.DataFrame
    classifier: ClassifierRun | None
    predictions: Path | None
    perceptual: tuple[str, FeatureDistance] | None
    device: str
    seed: int
    rate: float
    low_agreement: float


@dataclass(frozen=True)
class Pair:
    """A synthetic image and its nearest training image, (256, 256) uint8 each, with their similarity in pixels."""

    case: str
    similarity: float
    synthetic: NDArray[np.uint8]
    training: NDArray[np.uint8]


@dataclass(frozen=True)
class Judgement:
    """What was measured.

    Attributes:
        numbers: quality.json's content.
        table: quality.csv's rows, one a judged image.
        histograms: shares (256,) of in-sector grey levels, of the synthetic and of the real images.
        nearest: the pairs of highest similarity.
    """

    numbers: dict[str, Any]
    table: pd.DataFrame
    histograms: dict[str, NDArray[np.float64]]
    nearest: list[Pair]


@dataclass(frozen=True)
class _Sets:
    """Images: synthetic; real ones for training, for setting thresholds (val) and for checking them (test)."""

    synthetic: ImageSet
    train: ImageSet
    val: ImageSet
    test: ImageSet


def judge(inputs: QualityInputs) -> Judgement:
    """Measure everything that the inputs allow.

    Raises DataError as `check_inputs`, and for a missing prediction or an unreadable image.
    """
    check_inputs(inputs)
    known = [c for c in _KNOWN_OF_A_CASE if c in inputs.cases]
    table = inputs.cases[known].reset_index(drop=True)
    numbers: dict[str, Any] = {"dataset": inputs.synthetic.name, "real": inputs.real.name, "images": len(table)}
    if inputs.predictions is not None:  # first: what is wrong with it is known before the long part
        scores = dataset_quality.agreement_with_maps(inputs.synthetic, inputs.cases, inputs.predictions)
        table = table.merge(scores, on="case")
        table["low_agreement"] = table["agreement"] < inputs.low_agreement
        numbers["agreement"] = _agreement(table, inputs)
        if inputs.synthetic.subject.is_heart:
            numbers["cavity_areas"] = dataset_quality.cavity_areas(table, inputs.seed)
    sets = _read(inputs)
    features = _features(inputs, sets)
    if features is not None:
        numbers["features"] = _feature_distances(inputs, features)
    if inputs.perceptual is not None:
        numbers["diversity"] = _diversity(inputs.perceptual, sets, inputs.seed)
    if (apart := told_apart(sets.train, sets.synthetic, inputs.seed, inputs.device)) is not None:
        numbers["real_or_synthetic"] = apart
    histograms = _histograms(sets)
    numbers |= _texture(sets, histograms)
    spaces, numbers["privacy"], flagged = _privacy(inputs, sets, features)
    table = _with_neighbours(table, spaces, sets.train, flagged)
    return Judgement(numbers, table, histograms, _nearest_pairs(table, spaces, sets))


def check_inputs(inputs: QualityInputs) -> None:
    """Raise DataError, before any image is read, where the real dataset is too small for what is asked of it."""
    counts = inputs.real.cases()["split"].value_counts()
    for split in ("train", "val", "test"):
        if not counts.get(split):
            raise DataError(
                f"{inputs.real.name} has no {split} images; quality compares with those of all three splits"
            )
    images = int(counts["val"])
    share = inputs.rate / (2 if inputs.classifier is not None else 1)
    if not np.isfinite(privacy.threshold(np.zeros(images), share)):
        least = math.ceil(1000 * inputs.rate / share / (images + 1)) / 1000
        raise DataError(
            f"--rate {inputs.rate:g}: {images} validation images cannot set such a threshold; use {least:g} or more"
        )


def _read(inputs: QualityInputs) -> _Sets:
    real = read_images(inputs.real, inputs.real.cases())
    synthetic = read_images(inputs.synthetic, inputs.cases)
    return _Sets(synthetic, *(real.split(name) for name in ("train", "val", "test")))


def _agreement(table: pd.DataFrame, inputs: QualityInputs) -> dict[str, Any]:
    settings, patients = Resampling(seed=inputs.seed), table["patient"].to_numpy(str)
    columns = [c for c in map(str, table.columns) if c.startswith("dice_") or c == "agreement"]
    means = {c.removeprefix("dice_"): summarise(table[c].to_numpy(float), patients, settings) for c in columns}
    return means | {"limit": inputs.low_agreement, "low": int(table["low_agreement"].sum())}


def _features(inputs: QualityInputs, sets: _Sets) -> dict[str, NDArray[np.float64]] | None:
    if inputs.classifier is None:
        return None
    embed = _embedding(inputs)
    return {name: embed(getattr(sets, name).pixels) for name in ("synthetic", "train", "val", "test")}


def _feature_distances(inputs: QualityInputs, features: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    assert inputs.classifier is not None
    unseen = np.concatenate([features["val"], features["test"]])
    run = inputs.classifier
    network = f"view classifier {run.folder.name}, trained on {run.description.trained_on}"
    distances = dataset_quality.feature_distances(features["synthetic"], features["train"], unseen, inputs.seed)
    return {"network": f"{network}; not comparable with FID", **distances}


def _diversity(perceptual: tuple[str, FeatureDistance], sets: _Sets, seed: int) -> dict[str, Any]:
    name, distance = perceptual
    synthetic, real = (dataset_quality.diversity(s, distance, seed) for s in (sets.synthetic, sets.train))
    return {"network": name, "synthetic": synthetic, "real": real}


def _histograms(sets: _Sets) -> dict[str, NDArray[np.float64]]:
    synthetic, real = (dataset_quality.intensity_histogram(s) for s in (sets.synthetic, sets.train))
    return {"synthetic": synthetic, "real": real}


def _texture(sets: _Sets, histograms: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    apart = float(np.abs(np.cumsum(histograms["synthetic"]) - np.cumsum(histograms["real"])).max())
    # A few hundred images say all there is; the autocorrelation takes a while.
    some = {"synthetic": sets.synthetic, "real": sets.val}
    return {
        "intensity": {"kolmogorov_distance": apart},
        "texture": {name: dataset_quality.texture_summary(dataset_quality.textures(s)) for name, s in some.items()},
    }


def _privacy(
    inputs: QualityInputs, sets: _Sets, features: Mapping[str, NDArray[np.float64]] | None
) -> tuple[Spaces, dict[str, Any], NDArray[np.bool_]]:
    """Neighbours of the synthetic images, the "privacy" part of quality.json, and which of them are flagged (N,)."""
    known = copies.TrainingImages(sets.train.pixels, features["train"] if features else None)
    val = known.nearest(sets.val.pixels, features["val"] if features else None)
    limits = copies.limits_of(val, inputs.rate)
    synthetic = known.nearest(sets.synthetic.pixels, features["synthetic"] if features else None)
    test = known.nearest(sets.test.pixels, features["test"] if features else None)
    flagged = synthetic.flagged(limits)
    summary = {
        "rate": inputs.rate,
        "limits": limits,
        "limits_ci95": copies.limit_intervals(val, sets.val.patients, inputs.rate, inputs.seed),
        "calibrated_on": "validation patients",
        "synthetic": copies.flagged_share(flagged, sets.synthetic.patients, inputs.seed),
        "unseen_real": copies.flagged_share(test.flagged(limits), sets.test.patients, inputs.seed),
        "recall": planted_recall(sets.train, known, limits, _embedding(inputs) if features else None, inputs.seed),
    }
    return synthetic, summary, flagged


def _embedding(inputs: QualityInputs) -> Callable[[NDArray[np.uint8]], NDArray[np.float64]]:
    """From images (N, H, W) to the classifier's features (N, D)."""
    assert inputs.classifier is not None
    return partial(_features_of, run=inputs.classifier, device=inputs.device)


def _features_of(pixels: NDArray[np.uint8], run: ClassifierRun, device: str) -> NDArray[np.float64]:
    return dataset_quality.classifier_features(run, pixels, device)


def _with_neighbours(
    table: pd.DataFrame, spaces: Spaces, training: ImageSet, flagged: NDArray[np.bool_]
) -> pd.DataFrame:
    names = training.cases["case"].to_numpy()
    near = spaces.pixels
    table = table.assign(nearest_in_pixels=names[near.index], similarity_in_pixels=near.similarity)
    table = table.assign(
        nearest_mirrored=near.mirrored, nearest_rotation_deg=near.rotation.round(2), nearest_scale=near.scale.round(4)
    )
    if spaces.features is not None:
        nearest = names[spaces.features.index]
        table = table.assign(nearest_in_features=nearest, similarity_in_features=spaces.features.similarity)
    return table.assign(copy=flagged)


def _nearest_pairs(table: pd.DataFrame, spaces: Spaces, sets: _Sets) -> list[Pair]:
    similarity, index = spaces.pixels.similarity, spaces.pixels.index
    return [
        Pair(str(table["case"][i]), float(similarity[i]), sets.synthetic.pixels[i], sets.train.pixels[index[i]])
        for i in np.argsort(-similarity)[:_SHOWN]
    ]


def write_kept(
    synthetic: RawDataset, table: pd.DataFrame, path: Path, settings: Mapping[str, Any], overwrite: bool
) -> int:
    """The dataset without flagged images, by reference, in the folder `path`. Returns the number kept.

    Args:
        table: quality.csv's rows.

    Raises DataError when nothing would be left of a split.
    """
    flagged = table["copy"] | table.get("low_agreement", pd.Series(False, index=table.index))
    cases = synthetic.cases()
    kept = cases[cases["case"].isin(set(table.loc[~flagged, "case"]))].assign(source=synthetic.name)
    for split in ("train", "val"):
        if not (kept["split"] == split).any():
            raise DataError(f"{path}: every {split} image of {synthetic.name} is flagged; nothing was written")
    mix.write(path, kept, {synthetic.name: 1.0}, [synthetic], settings, overwrite)
    return len(kept)
