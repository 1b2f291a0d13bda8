"""Evaluations in which something is lacking or does not fit: structures, views, cavities, grids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from echo_synth.data.nifti import write_image
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError
from echo_synth.evaluation.dataset_quality import agreement_with_maps
from echo_synth.evaluation.segmentation import SegmentationResult, evaluate_segmentation
from echo_synth.evaluation.statistics import Resampling
from echo_synth.report.evaluation import write_evaluation
from echo_synth.report.tables import summary

Mask = NDArray[np.uint8]
_ROWS, _COLUMNS = np.mgrid[:40, :40]


def _heart(case: str) -> Mask:
    """A cavity in a wall above an atrium; smaller at end-systole."""
    width = 5 if case.endswith("ED") else 4
    mask = np.zeros((40, 40), np.uint8)
    mask[_inside(12, width + 3)] = 2
    mask[_inside(9, width)] = 1
    mask[24:] = 0
    mask[25:32, 15:25] = 3
    return mask


def _inside(height: int, width: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = ((_ROWS - 18) / height) ** 2 + ((_COLUMNS - 20) / width) ** 2 <= 1
    return inside


def _nothing(case: str) -> Mask:
    return np.zeros((40, 40), np.uint8)


def _cases(patients: Iterable[int]) -> list[str]:
    return [f"patient{p:04d}_{v}_{f}" for p, v, f in product(patients, ("2CH", "4CH"), ("ED", "ES"))]


def _write(folder: Path, cases: Iterable[str], mask: Callable[[str], Mask] = _heart) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        write_image(folder / f"{case}.nii.gz", mask(case), (1.2, 0.9))
    return folder


def _judge(predictions: Path, references: Path) -> SegmentationResult:
    return evaluate_segmentation(predictions, references, Resampling(20), workers=1)


def test_an_image_without_any_structure_is_not_among_the_worst(tmp_path: Path) -> None:
    """Nothing is there and nothing was found: no Dice, and none of infinity."""
    cases = _cases([1])
    for name in ("references", "predictions"):
        _write(tmp_path / name, cases[1:])
        _write(tmp_path / name, cases[:1], _nothing)
        _write(tmp_path / "none" / name, cases, _nothing)
    result = _judge(tmp_path / "predictions", tmp_path / "references")
    assert sorted(masks.case for _, masks in result.worst) == cases[1:]
    empty = _judge(tmp_path / "none/predictions", tmp_path / "none/references")
    write_evaluation(tmp_path / "out", {}, empty, tmp_path / "none/references")
    assert not (tmp_path / "out/worst.png").exists()


def test_every_patient_without_volume_is_told_with_the_reason(tmp_path: Path) -> None:
    """Nine patients: 3 lacks a view, 4 a cavity in the reference, 5 in both trainings, 6 and 7 in one of them; 1 to 2, 8, 9 are whole."""
    cases = [case for case in _cases(range(1, 10)) if not case.startswith("patient0003_4CH")]

    def without(patients: set[int]) -> Callable[[str], Mask]:
        return lambda case: (_nothing if int(case[7:11]) in patients else _heart)(case)

    references = _write(tmp_path / "references", cases, without({4}))
    trainings = [_write(tmp_path / f"arm/seed{i}", cases, without({5, 5 + i})) for i in (1, 2)]
    volumes = evaluate_segmentation(trainings, references, Resampling(20), workers=1).metrics["volumes"]
    assert volumes["ef_percent"]["n"] == 6
    told = summary({"volumes": volumes})
    assert (
        "Not counted, of 9 patients: 1 without an image of each view and phase; 1 with an empty cavity in the reference; "
        "1 with an empty predicted cavity. Patients of whom some trainings left a cavity empty, counted by the others: 2."
    ) in told


@pytest.mark.parametrize(
    ("mask", "spacing", "message"),
    [
        (
            np.zeros((20, 40), np.uint8),
            (1.0, 1.0),
            r"patient0001_2CH_ED: prediction is \(20, 40\), reference \(40, 40\)",
        ),
        (np.full((40, 40), 7, np.uint8), (1.0, 1.0), "patient0001_2CH_ED: prediction holds label 7"),
        (np.zeros((40, 40), np.uint8), (0.5, 0.5), "patient0001_2CH_ED: prediction has spacing"),
        (np.zeros((40, 40), np.uint8), (1.0, 1.0), None),
    ],
)
def test_masks_of_drawn_images_must_fit_their_maps(
    mask: Mask, spacing: tuple[float, float], message: str | None, tmp_path: Path
) -> None:
    """A label map of 1 x 1 mm will do: only overlap is measured."""
    dataset = RawDataset(tmp_path / "Dataset640_S")
    case = _cases([1])[0]
    (dataset.path / "labelsTr").mkdir(parents=True)
    (tmp_path / "read").mkdir()
    write_image(dataset.label_path(case, "train"), _heart(case), (1.0, 1.0))
    write_image(tmp_path / f"read/{case}.nii.gz", mask, spacing)
    cases = pd.DataFrame({"case": [case], "split": ["train"]})
    if message is None:
        assert agreement_with_maps(dataset, cases, tmp_path / "read")["agreement"].tolist() == [0]
    else:
        with pytest.raises(DataError, match=message):
            agreement_with_maps(dataset, cases, tmp_path / "read")
