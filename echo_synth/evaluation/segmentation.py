"""Predicted masks against reference masks, case by case: per_case.csv."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.nifti import Image2D, read_image
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import DataError
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


def check_pair(case: str, prediction: Image2D, reference: Image2D) -> None:
    if prediction.pixels.shape != reference.pixels.shape:
        raise DataError(
            f"{case}: prediction is {prediction.pixels.shape}, reference {reference.pixels.shape}; predict on the same grid"
        )
    if reference.spacing == (1.0, 1.0):  # what a header without sizes is read as; no probe has such pixels
        raise DataError(
            f"{case}: the reference has no spacing (1 x 1 mm), so no distance in mm; use those of convert-camus"
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
    prediction, reference = (read_image(folder / f"{case}{ENDING}") for folder in (predictions, references))
    check_pair(case, prediction, reference)
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
