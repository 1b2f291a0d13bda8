"""Masks of synthetic images by the segmenter of the real data, made once and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from echo_synth.data.facts import content_of
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.downstream import nnunet, segmenter
from echo_synth.runs.folder import file_hash


def segmenter_masks(
    synthetic: RawDataset, cases: pd.DataFrame, real: int, trainer: str, folder: Path, device: str
) -> Path | None:
    """A folder below `folder` with masks of the images of `cases`, predicted now or before; None without a segmenter.

    Args:
        real: id of the dataset on which `trainer` was trained.
    """
    trained = nnunet.trained_folder(real, trainer)
    weights = trained / nnunet.FINAL
    if not weights.is_file():
        return None
    # Named by what they depend on: the segmenter's weights and the images.
    names = hashlib.sha256("".join(cases["case"]).encode()).hexdigest()[:8]
    images = names + (content_of(synthetic.path) or file_hash(synthetic.path / "settings.json"))[:8]
    target = folder / f"predictions_{file_hash(weights)[:8]}_{images}"
    if not target.is_dir():
        files = [synthetic.image_path(c, s) for c, s in zip(cases["case"], cases["split"], strict=True)]
        segmenter.predict_segmenter(real, trainer, files, target, device)
    return target
