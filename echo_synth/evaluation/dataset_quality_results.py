"""quality from end to end: read, measure, write quality.json, quality.csv and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth.data import mix
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError
from echo_synth.evaluation import dataset_quality
from echo_synth.evaluation.dataset_quality import ImageSet, Spaces
from echo_synth.evaluation.statistics import Resampling, summarise
from echo_synth.files import check_writable, write_atomic, write_bytes, write_json
from echo_synth.report import quality_figures as figures
from echo_synth.runs.folder import ClassifierRun
from echo_synth.vae.perceptual import FeatureDistance


@dataclass(frozen=True)
class Inputs:
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
class _Sets:
    """Images: synthetic; real ones for training, for setting thresholds (val) and for checking them (test)."""

    synthetic: ImageSet
    train: ImageSet
    val: ImageSet
    test: ImageSet


def judge(inputs: Inputs, folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure everything; write into `folder`. Returns quality.json's content and quality.csv's rows."""
    check_writable(folder)
    table = inputs.cases[[c for c in ("case", "source_case", "patient", "view", "phase") if c in inputs.cases]].reset_index(drop=True)  # fmt: skip
    result: dict[str, Any] = {"dataset": inputs.synthetic.name, "real": inputs.real.name, "images": len(table)}
    if inputs.predictions is not None:  # first: what is wrong with it is known before the long part
        table = table.merge(
            dataset_quality.agreement_with_maps(inputs.synthetic, inputs.cases, inputs.predictions), on="case"
        )
        table["low_agreement"] = table["agreement"] < inputs.low_agreement
        result["agreement"] = _agreement(table, inputs)
    real = dataset_quality.read_images(inputs.real, inputs.real.cases())
    sets = _Sets(
        dataset_quality.read_images(inputs.synthetic, inputs.cases), *(real.split(s) for s in ("train", "val", "test"))
    )
    features = _features(inputs, sets)
    if features is not None and inputs.classifier is not None:
        unseen = np.concatenate([features["val"], features["test"]])
        result["features"] = {
            "network": f"view classifier {inputs.classifier.folder.name}, trained on {inputs.classifier.description.trained_on}; not comparable with FID",
            **dataset_quality.feature_distances(features["synthetic"], features["train"], unseen, inputs.seed),
        }  # fmt: skip
    if inputs.perceptual is not None:
        name, distance = inputs.perceptual
        pairs = {k: dataset_quality.diversity(s, distance, inputs.seed) for k, s in (("synthetic", sets.synthetic), ("real", sets.train))}  # fmt: skip
        result["diversity"] = {"network": name, **pairs}
    result |= _texture(sets)
    spaces, result["privacy"], copies = _privacy(inputs, sets, features)
    table = _with_neighbours(table, spaces, sets.train, copies)
    _write(folder, result | {"settings": dict(settings)}, table, sets, spaces)
    return result, table


def _agreement(table: pd.DataFrame, inputs: Inputs) -> dict[str, Any]:
    how, patients = Resampling(seed=inputs.seed), table["patient"].to_numpy(str)
    columns = [c for c in map(str, table.columns) if c.startswith("dice_") or c == "agreement"]
    found = {c.removeprefix("dice_"): summarise(table[c].to_numpy(float), patients, how) for c in columns}
    return found | {"limit": inputs.low_agreement, "low": int(table["low_agreement"].sum())}


def _features(inputs: Inputs, sets: _Sets) -> dict[str, NDArray[np.float64]] | None:
    if inputs.classifier is None:
        return None
    return {
        name: dataset_quality.classifier_features(inputs.classifier, getattr(sets, name).pixels, inputs.device)
        for name in ("synthetic", "train", "val", "test")
    }


def _texture(sets: _Sets) -> dict[str, Any]:
    histograms = [dataset_quality.intensity_histogram(s) for s in (sets.synthetic, sets.train)]
    apart = float(np.abs(np.cumsum(histograms[0]) - np.cumsum(histograms[1])).max())
    # A few hundred images say all there is; the autocorrelation takes a while.
    some = {"synthetic": sets.synthetic, "real": sets.val}
    return {
        "intensity": {"kolmogorov_distance": apart},
        "texture": {name: dataset_quality.texture_summary(dataset_quality.textures(s)) for name, s in some.items()},
    }


def _privacy(inputs: Inputs, sets: _Sets, features: Mapping[str, NDArray[np.float64]] | None) -> tuple[Spaces, dict[str, Any], NDArray[np.bool_]]:  # fmt: skip
    def nearest(name: str) -> Spaces:
        own, known = (features[name], features["train"]) if features is not None else (None, None)
        return dataset_quality.nearest_training(getattr(sets, name), sets.train, own, known)

    synthetic, val, test = (nearest(n) for n in ("synthetic", "val", "test"))
    limits = dataset_quality.limits_of(val, inputs.rate)
    if not all(np.isfinite(v) for v in limits.values()):
        least = len(limits) / (len(sets.val.pixels) + 1)
        raise DataError(
            f"--rate {inputs.rate:g}: {len(sets.val.pixels)} validation images cannot set such a threshold; use {least:.3f} or more"
        )
    copies = synthetic.flagged(limits)
    summary = {
        "rate": inputs.rate, "limits": limits, "calibrated_on": "validation patients",
        "synthetic": dataset_quality.privacy_summary(copies), "unseen_real": dataset_quality.privacy_summary(test.flagged(limits)),
    }  # fmt: skip
    return synthetic, summary, copies


def _with_neighbours(table: pd.DataFrame, spaces: Spaces, training: ImageSet, copies: NDArray[np.bool_]) -> pd.DataFrame:  # fmt: skip
    names = training.cases["case"].to_numpy()
    added = {"nearest_in_pixels": names[spaces.pixels.index], "similarity_in_pixels": spaces.pixels.similarity}
    if spaces.features is not None:
        added |= {"nearest_in_features": names[spaces.features.index], "similarity_in_features": spaces.features.similarity}  # fmt: skip
    return table.assign(**added, copy=copies)


def _write(folder: Path, result: dict[str, Any], table: pd.DataFrame, sets: _Sets, spaces: Spaces) -> None:
    histograms = {"synthetic": dataset_quality.intensity_histogram(sets.synthetic), "real": dataset_quality.intensity_histogram(sets.train)}  # fmt: skip
    write_bytes(folder / "quality.png", figures.png(figures.overview(table, histograms, result["privacy"])))
    order = np.argsort(-spaces.pixels.similarity)[:6]
    pairs = [
        (f"{table['case'][i]}\n{spaces.pixels.similarity[i]:.2f}", sets.synthetic.pixels[i], sets.train.pixels[spaces.pixels.index[i]])
        for i in order
    ]  # fmt: skip
    write_bytes(folder / "nearest.png", figures.png(figures.nearest_pairs(pairs)))
    write_atomic(folder / "quality.csv", lambda p: table.to_csv(p, index=False))
    write_json(folder / "settings.json", result["settings"])
    write_json(folder / "quality.json", result)


def write_kept(
    synthetic: RawDataset, table: pd.DataFrame, path: Path, settings: Mapping[str, Any], overwrite: bool
) -> int:
    """The dataset without flagged images, by reference, in the folder `path`. Returns the number kept.

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
