"""How well copies are found: training images, changed, offered as if they had been drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_synth.evaluation.copies import TrainingImages
from echo_synth.evaluation.image_sets import ImageSet
from echo_synth.metrics import privacy
from echo_synth.metrics.privacy import move_images
from echo_synth.progress import track

PLANTED = 50  # patients, one image of each
_SHIFT = 0.05  # of the side
Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]


def _signs(images: Pixels) -> NDArray[np.float64]:
    """+1 and −1 in turn, so that a change goes either way."""
    return np.asarray(1.0 - 2.0 * (np.arange(len(images)) % 2), np.float64)


def _rotated(degrees: float) -> Change:
    return lambda images: move_images(images, rotation=degrees * _signs(images))


def _scaled(scale: float) -> Change:
    return lambda images: move_images(images, scale=scale)


def _shifted(images: Pixels) -> Pixels:
    angle = 2 * np.pi * np.arange(len(images)) / 8
    return move_images(images, down=_SHIFT * np.sin(angle), right=_SHIFT * np.cos(angle))


def _brighter(images: Pixels) -> Pixels:
    """A quarter more contrast and ten grey levels more; what was in the sector stays there."""
    return np.where(images > 0, np.clip(images * 1.25 + 10, 1, 255), 0).round().astype(np.uint8)


def _all_at_once(images: Pixels) -> Pixels:
    moved = move_images(images, mirrored=True, rotation=7 * _signs(images), scale=0.93, down=0.02, right=-0.02)
    return _brighter(moved)


CHANGES: Mapping[str, Change] = {
    "none": lambda images: images,
    "rotated by 1°": _rotated(1),
    "rotated by 5°": _rotated(5),
    "rotated by 10°": _rotated(10),
    "scaled by 0.9": _scaled(0.9),
    "scaled by 1.1": _scaled(1.1),
    "shifted by 5 %": _shifted,
    "mirrored": lambda images: move_images(images, mirrored=True),
    "gain: contrast × 1.25, 10 levels brighter": _brighter,
    "mirrored, rotated by 7°, scaled by 0.93, shifted by 3 %, gain": _all_at_once,
}


def planted_recall(
    training: ImageSet,
    known: TrainingImages,
    limits: Mapping[str, float],
    embed: Callable[[Pixels], NDArray[np.float64]] | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Of each kind and size of change: how many of the planted copies are flagged.

    Args:
        training: the training images, of which one each of up to `PLANTED` patients is planted.
        known: the same, prepared.
        limits: of each space, as for the images that are judged.
        embed: from images (N, H, W) to features (N, D), where features count.

    Returns:
        entries change, found, planted, share, ci95 (Clopper and Pearson's; a patient each, so independent).
    """
    images = training.pixels[_one_a_patient(training, seed)]
    changes = track(CHANGES.items(), len(CHANGES), "planted copies", "changes")
    return [_recall(name, change(images), known, limits, embed) for name, change in changes]


def _one_a_patient(training: ImageSet, seed: int) -> NDArray[np.intp]:
    order = np.random.default_rng(seed).permutation(len(training.pixels))
    _, first = np.unique(training.patients[order], return_index=True)
    return np.sort(order[np.sort(first)[:PLANTED]])


def _recall(
    name: str,
    planted: Pixels,
    known: TrainingImages,
    limits: Mapping[str, float],
    embed: Callable[[Pixels], NDArray[np.float64]] | None,
) -> dict[str, Any]:
    flagged = known.nearest(planted, embed(planted) if embed else None).flagged(limits)
    found, total = int(flagged.sum()), len(flagged)
    interval = list(privacy.share_interval(found, total))
    return {"change": name, "found": found, "planted": total, "share": found / total, "ci95": interval}
