"""Pairs of predicted and reference masks: which there are, and each file read and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echo_synth.data.nifti import Image2D, read_image
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.data.resize import resize_image
from echo_synth.data.subject import Subject, heart, subject_of
from echo_synth.errors import DataError
from echo_synth.files import listed
from echo_synth.types import CaseId


@dataclass(frozen=True)
class CaseMasks:
    """Masks of one case on one grid, labels as nnU-Net's datasets have them (0 to 3).

    Attributes:
        case: its name.
        reference: the mask it is judged by.
        predictions: one of each folder of predictions, in their order.
    """

    case: str
    reference: Image2D
    predictions: tuple[Image2D, ...]

    @property
    def identity(self) -> CaseId:
        return CaseId.of(self.case)


def pair_cases(predictions: Path, references: Path) -> list[str]:
    """Case names that both folders hold.

    Raises DataError when a folder has none, or a case is missing or extra on either side.
    """
    subject = subject_of(references.parent)
    predicted, wanted = _case_names(predictions, subject), _case_names(references, subject)
    missing, extra = sorted(wanted - predicted), sorted(predicted - wanted)
    if missing:
        raise DataError(
            f"{predictions}: {len(missing)} case(s) of {references} are missing, e.g. {missing[0]}; predict all of them"
        )
    if extra:
        raise DataError(f"{predictions}: {len(extra)} case(s) have no reference in {references}, e.g. {extra[0]}")
    return sorted(wanted)


def _case_names(folder: Path, subject: Subject) -> set[str]:
    names = {f.name.removesuffix(ENDING) for f in listed(folder, f"*{ENDING}")}
    if not names:
        raise DataError(f"{folder}: no *{ENDING} files; expected segmentations")
    for name in sorted(names):
        try:
            CaseId.parse(name, subject.views, subject.phases)
        except DataError as e:
            raise DataError(f"{folder}: {e}") from None
    return names


def check_pair(
    case: str, prediction: Image2D, reference: Image2D, subject: Subject | None = None, in_mm: bool = True
) -> None:
    """Refuse masks that cannot be compared pixel by pixel.

    Args:
        case: named in the error.
        prediction, reference: pixels (H, W), labels of any dtype; spacing in mm, (row, column).
        subject: whose labels are known; CAMUS's heart by default.
        in_mm: whether distances will be measured, for which the reference must have a spacing.

    Raises:
        DataError: shapes, directions or spacings (by more than 0.1 %) differ, the reference has no spacing, or
            one of them holds a label that the specification does not know.
    """
    if prediction.pixels.shape != reference.pixels.shape:
        raise DataError(
            f"{case}: prediction is {prediction.pixels.shape}, reference {reference.pixels.shape}; predict on the same grid"
        )
    if in_mm and reference.spacing == (1.0, 1.0):  # what a header without sizes is read as; no probe has such pixels
        raise DataError(
            f"{case}: the reference has no spacing (1 x 1 mm), so no distance in mm; use those of convert-camus"
        )
    if not np.allclose(prediction.spacing, reference.spacing, rtol=1e-3):
        raise DataError(f"{case}: prediction has spacing {prediction.spacing} mm, reference {reference.spacing} mm")
    one, other = prediction.direction, reference.direction
    if one is not None and other is not None and not np.allclose(one, other, atol=1e-2):
        raise DataError(
            f"{case}: the prediction's direction (orientation) differs from the reference's: rows or columns run another way; "
            "save it on the grid of its image"
        )
    known = set((subject or heart()).nnunet_labels.values())
    for side, mask in (("prediction", prediction), ("reference", reference)):
        unknown = sorted(set(np.unique(mask.pixels).tolist()) - known)
        if unknown:
            raise DataError(f"{case}: {side} holds label {unknown[0]:g}, expected {sorted(known)}")


def read_masks(case: str, predictions: Sequence[Path], references: Path) -> CaseMasks:
    """Reference and predictions of one case. Raises DataError for what is damaged or `check_pair` refuses."""
    reference, subject = read_image(references / f"{case}{ENDING}"), subject_of(references.parent)
    predicted = []
    for folder in predictions:
        predicted.append(read_image(folder / f"{case}{ENDING}"))
        check_pair(case, predicted[-1], reference, subject)
    return CaseMasks(case, reference, tuple(predicted))


def find_native(native: Path, case: str) -> Path:
    """The reference of a case on its own grid: NATIVE/CASE.nii.gz, or where CAMUS has it. Raises DataError where neither is."""
    patient = CaseId.of(case).patient
    inside_camus = Path(patient) / f"{case}_gt{ENDING}"
    places = (native / f"{case}{ENDING}", native / inside_camus, native / "database_nifti" / inside_camus)
    for file in places:
        if file.is_file():
            return file
    raise DataError(f"{native}: no reference of {case}; expected {places[0].name} or {inside_camus} there")


def on_grid_of(case: str, prediction: Image2D, reference: Image2D) -> Image2D:
    """A prediction on the grid of a reference with the same field of view: each label interpolated linearly, the largest wins.

    Raises DataError when the two do not show the same field, by more than a pixel of the prediction.
    """
    sizes = zip(prediction.pixels.shape, prediction.spacing, reference.pixels.shape, reference.spacing, strict=True)
    for count, step, native_count, native_step in sizes:
        if abs(count * step - native_count * native_step) > max(step, native_step):
            raise DataError(
                f"{case}: prediction is {count * step:.1f} mm wide or deep, its native reference "
                f"{native_count * native_step:.1f} mm; expected the same image"
            )
    rows, columns = reference.pixels.shape
    labels = np.unique(prediction.pixels)
    shares = np.stack([resize_image(prediction.pixels == label, (rows, columns)) for label in labels])
    return Image2D(labels[shares.argmax(0)], reference.spacing)
