"""What is odd about a set of cases, though each by itself is right: one image twice, phases swapped, rows that run upwards."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_synth.data.camus import some_of
from echo_synth.data.image2d import Image2D
from echo_synth.errors import DataError

_CAVITY = 1  # nnU-Net label


@dataclass(frozen=True)
class Seen:
    """What of a converted case is compared with others.

    Attributes:
        case, patient, view, phase, split: as in cases.csv.
        image: SHA-256 of the pixels, as the file holds them.
        cavity_mm2: area of label 1.
        direction: of columns and rows, rounded, see `Image2D`; None where the file does not say.
    """

    case: str
    patient: str
    view: str
    phase: str
    split: str
    image: bytes
    cavity_mm2: float
    direction: tuple[int, ...] | None

    @classmethod
    def of(cls, case: str, patient: str, view: str, phase: str, split: str, image: Image2D, mask: Image2D) -> Seen:
        """Of a case as it was read."""
        shape = f"{image.pixels.shape} {image.pixels.dtype}".encode()
        digest = hashlib.sha256(shape + np.ascontiguousarray(image.pixels).tobytes()).digest()
        area = float((mask.pixels == _CAVITY).sum()) * mask.spacing[0] * mask.spacing[1]
        way = None if image.direction is None else tuple(int(v) for v in np.rint(image.direction).ravel())
        return cls(case, patient, view, phase, split, digest, area, way)


def notes_of(cases: Sequence[Seen], hearts: bool, followed: bool) -> list[str]:
    """What the user should be told.

    Args:
        hearts: whether label 1 is a ventricle's cavity, and phases are ED and ES.
        followed: whether images were turned as their headers say (`pair.upright`).

    Raises DataError where a test patient's image is a training or validation patient's too.
    """
    notes = list(_same_images(cases))
    if hearts:
        notes += _swapped_phases(cases)
    return notes + list(_directions(cases, followed))


def _same_images(cases: Sequence[Seen]) -> Iterator[str]:
    by_image: dict[bytes, list[Seen]] = defaultdict(list)
    for case in cases:
        by_image[case.image].append(case)
    several = [g for g in by_image.values() if len({c.patient for c in g}) > 1]
    for group in several:
        if len({c.split == "test" for c in group}) > 1:
            one, other = next(c for c in group if c.split == "test"), next(c for c in group if c.split != "test")
            raise DataError(
                f"{one.case} (test) and {other.case} ({other.split}) are the same image, so the held-out patient would "
                "be trained on; remove one of them, or put both patients on one side of the split"
            )
    if several:
        names = some_of([" and ".join(c.case for c in group[:2]) for group in several])
        yield f"{len(several)} image(s) belong to more than one patient: {names}"


def _swapped_phases(cases: Sequence[Seen]) -> Iterator[str]:
    """Patients whose cavity is larger at end-systole in every view that has one image of each phase."""
    areas: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for case in cases:
        areas[case.patient][case.view][case.phase].append(case.cavity_mm2)
    swapped = []
    for patient, views in areas.items():
        both = [v for v in views.values() if len(v.get("ED", ())) == len(v.get("ES", ())) == 1]
        if both and all(v["ES"][0] > v["ED"][0] for v in both):
            swapped.append(patient)
    if swapped:
        yield (
            f"the cavity of {len(swapped)} patient(s) is larger at ES than at ED in every view: {some_of(swapped)}; "
            "are the two phases swapped?"
        )


def _directions(cases: Sequence[Seen], followed: bool) -> Iterator[str]:
    ways = [c.direction for c in cases if c.direction is not None]
    turned = [c.case for c in cases if c.direction is not None and not _is_upright(c.direction)]
    if followed and turned:
        yield f"{len(turned)} image(s) were turned upright as their headers say: {some_of(turned)}"
    elif not followed and len(set(ways)) > 1:
        yield (
            f"headers state {len(set(ways))} different directions of rows and columns, which are not followed; "
            "look at some images whether all are upright"
        )


def _is_upright(direction: tuple[int, ...]) -> bool:
    columns_and_rows: NDArray[np.int_] = np.reshape(direction, (-1, 2))[:2]
    return bool((columns_and_rows == np.eye(2, dtype=int)).all())
