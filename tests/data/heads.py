"""A small dataset that is no heart: PNG images with masks beside them, two views, discs whose areas are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.analytic import disc

SPEC = """title: "fetal head"
licence: "CC BY 4.0"
images: "images/{patient}_{view}.png"
masks: "masks/{patient}_{view}_mask.png"
views: {axial: [AX, ax], coronal: CO}
labels:
  skull: {values: [255, 254], tissue: 2}
  brain: {values: 128, tissue: 1}
background: [0, 7]
structures:
  head: [brain, skull]
  brain: [brain]
spacing: [0.5, 0.4]
sector: frame
split: {seed: 0, val: 0.2, test: 0.2}
"""
VIEWS = {"AX": "axial", "CO": "coronal"}


def write_heads(folder: Path, patients: int = 10, spec: str = SPEC) -> Path:
    """Make `folder` with images of `patients` in both views; returns its spec, heads.yaml."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(patients):
        for text in VIEWS:
            image, mask = head(number)
            Image.fromarray(image).save(folder / "images" / f"p_{number}_{text}.png")
            Image.fromarray(mask).save(folder / "masks" / f"p_{number}_{text}_mask.png")
    file = folder / "heads.yaml"
    file.write_text(spec, encoding="utf-8")
    return file


def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask, 96 x 128 uint8: a ring of skull around a brain; the image has zeros in its frame."""
    rng = np.random.default_rng(seed)
    whole, brain = (disc(128, (48, 64), r)[:96] for r in (36, 30))
    mask = np.where(brain, 128, np.where(whole, 255, 0)).astype(np.uint8)
    mask[:2, :2] = 7  # a second value that is background
    mask[np.nonzero(mask == 255)[0][0], np.nonzero(mask == 255)[1][0]] = 254
    grey = np.select([mask == 128, mask >= 254], [60, 200], 0)
    return np.clip(grey + rng.integers(0, 30, grey.shape), 0, 255).astype(np.uint8), mask
