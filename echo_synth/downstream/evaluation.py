"""Predicted masks against reference masks, and classifier probabilities: the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.camus import Picture, read_picture
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import DataError
from echo_synth.metrics import bootstrap, classification
from echo_synth.metrics.overlap import dice, structure_mask
from echo_synth.metrics.surface import surface_distances
from echo_synth.parallel import parallel_map
from echo_synth.progress import track
from echo_synth.types import CaseId

METRICS = ("dice", "hd_mm", "hd95_mm", "assd_mm", "hd_px")
PIXELS = 256  # "pixels" are those of a 256 x 256 grid, whatever the file's own


def pair_cases(predictions: Path, references: Path) -> list[str]:
    """Case names that both folders hold.

    Raises DataError when a folder has none, or a case is missing or extra on either side.
    """
    have = {f.name.removesuffix(ENDING) for f in predictions.glob(f"*{ENDING}")}
    want = {f.name.removesuffix(ENDING) for f in references.glob(f"*{ENDING}")}
    for folder, names in ((predictions, have), (references, want)):
        if not names:
            raise DataError(f"{folder}: no *{ENDING} files; expected segmentations")
    missing, extra = sorted(want - have), sorted(have - want)
    if missing:
        raise DataError(
            f"{predictions}: {len(missing)} case(s) of {references} are missing, e.g. {missing[0]}; predict all of them"
        )
    if extra:
        raise DataError(f"{predictions}: {len(extra)} case(s) have no reference in {references}, e.g. {extra[0]}")
    return sorted(want)


def _check_pair(case: str, prediction: Picture, reference: Picture) -> None:
    if prediction.pixels.shape != reference.pixels.shape:
        raise DataError(
            f"{case}: prediction is {prediction.pixels.shape}, reference {reference.pixels.shape}; predict on the same grid"
        )
    if not np.allclose(prediction.spacing, reference.spacing, rtol=1e-3):
        raise DataError(f"{case}: prediction has spacing {prediction.spacing} mm, reference {reference.spacing} mm")
    known = set(specs.labels().nnunet_labels.values())
    unknown = sorted(set(np.unique(prediction.pixels).tolist()) - known)
    if unknown:
        raise DataError(f"{case}: prediction holds label {unknown[0]:g}, expected {sorted(known)}")


def score_case(case: str, predictions: Path, references: Path) -> list[dict[str, Any]]:
    """Rows of per_case.csv for one case, one a structure.

    An empty prediction has Dice 0 and is penalised with the image's diagonal as every
    distance: the worst that a prediction inside the image could score.
    """
    prediction, reference = (read_picture(folder / f"{case}{ENDING}") for folder in (predictions, references))
    _check_pair(case, prediction, reference)
    identity = CaseId.parse(case)
    rows, columns = reference.pixels.shape
    grids = {"mm": reference.spacing, "px": (PIXELS / rows, PIXELS / columns)}
    result = []
    for name, values in specs.labels().structures.items():
        a, b = structure_mask(prediction.pixels, values), structure_mask(reference.pixels, values)  # type: ignore[arg-type]
        mm, px = (_penalised(a, b, grids[unit]) for unit in ("mm", "px"))
        result.append(
            {"case": case, "patient": identity.patient, "view": identity.view, "phase": identity.phase, "structure": name,
             "dice": dice(a, b), "hd_mm": mm["hd"], "hd95_mm": mm["hd95"], "assd_mm": mm["assd"], "hd_px": px["hd"],
             "empty_prediction": bool(b.any() and not a.any())}
        )  # fmt: skip
    return result


def _penalised(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float]) -> dict[str, float]:
    if a.any() != b.any():
        worst = float(np.hypot(a.shape[0] * spacing[0], a.shape[1] * spacing[1]))
        return {"hd": worst, "hd95": worst, "assd": worst}
    return asdict(surface_distances(a, b, spacing))


def score_folder(predictions: Path, references: Path, workers: int | None = None) -> pd.DataFrame:
    """per_case.csv of a folder of predictions. Raises DataError for the first unusable pair."""
    cases = pair_cases(predictions, references)
    work = partial(score_case, predictions=predictions, references=references)
    batches = track(parallel_map(work, cases, workers), len(cases), "score", "cases")
    return pd.DataFrame([row for batch in batches for row in batch])


def summarise(values: NDArray[np.float64], patients: NDArray[np.str_], repeats: int, seed: int) -> dict[str, Any]:
    """mean, std (over bootstrap repeats, the paper's form), patient-level 95 % interval, counts."""
    finite = np.isfinite(values)
    _, std = bootstrap.subset_bootstrap(values, repeats, seed)
    low, high = bootstrap.patient_interval(values, patients, repeats, seed)
    return {
        "mean": _number(float(np.nanmean(values)) if finite.any() else np.nan), "std": _number(std), "ci95": [_number(low), _number(high)],
        "n_images": int(finite.sum()), "n_patients": len(set(patients[finite].tolist())),
    }  # fmt: skip


def segmentation_metrics(per_case: pd.DataFrame, repeats: int, seed: int) -> dict[str, Any]:
    """The "segmentation" part of metrics.json."""
    result: dict[str, Any] = {}
    for name, rows in per_case.groupby("structure", sort=False):
        patients = rows["patient"].to_numpy(str)
        result[str(name)] = {m: summarise(rows[m].to_numpy(float), patients, repeats, seed) for m in METRICS}
        result[str(name)]["empty_predictions"] = int(rows["empty_prediction"].sum())
    return result


def classification_metrics(predicted: pd.DataFrame, repeats: int, seed: int) -> dict[str, Any]:
    """The "classification" part of metrics.json; intervals resample patients."""
    truth = (predicted["view"] == "4CH").to_numpy(int)
    probability = predicted["probability_4CH"].to_numpy(float)
    patients = predicted["patient"].to_numpy(str)
    correct = ((probability >= 0.5) == truth).astype(float)
    functions: dict[str, Callable[..., float]] = {
        "auroc": classification.auroc,
        "f1": classification.f1,
        "brier": classification.brier,
    }
    result = {"accuracy": summarise(correct, patients, repeats, seed)}
    for name, function in functions.items():
        result[name] = {
            "mean": _number(function(truth, probability)),
            "n_images": len(truth),
            "n_patients": len(set(patients)),
        }
    return result


def paired_metrics(per_case: pd.DataFrame, baseline: pd.DataFrame, repeats: int, seed: int) -> dict[str, Any]:
    """Mean difference to a baseline's predictions of the same cases, with patient-level 95 % intervals."""
    keys = ["case", "structure"]
    both = per_case.merge(baseline, on=keys, suffixes=("", "_baseline"), validate="one_to_one")
    if len(both) != len(per_case):
        raise DataError("the baseline holds other cases than the predictions; predict the same test cases with both")
    result: dict[str, Any] = {}
    for name, rows in both.groupby("structure", sort=False):
        patients = rows["patient"].to_numpy(str)
        result[str(name)] = {
            m: summarise((rows[m] - rows[f"{m}_baseline"]).to_numpy(float), patients, repeats, seed) for m in METRICS
        }
    return result


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
