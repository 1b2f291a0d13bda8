"""Simulated fetal heads: a small dataset of PNG images and masks that is neither CAMUS nor a heart, with its spec.

    python docs/recipes/simulate_fetal_heads.py heads --patients 30 --seed 0
    echosynth convert --spec heads/fetal_head.yaml --dataset-id 510

A head is an ellipse: a bright skull around a darker brain with its midline and two ventricles, in amniotic fluid
beside the uterine wall. The echoes are a blurred complex Gaussian field, whose envelope is speckle.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SHAPE = (200, 256)  # rows, columns
SPACING_MM = 0.5
IMAGES = 2  # of a patient
BRAIN, SKULL = 128, 255  # in the masks
SPEC = Path(__file__).with_name("fetal_head.yaml")

Pixels = NDArray[np.float64]


def ellipse(centre: Pixels, half_axes: Pixels, angle: float) -> Pixels:
    """Distance (rows, columns) of each pixel from `centre` (mm) in units of the ellipse: 1 on its outline."""
    rows, columns = (np.indices(SHAPE) + 0.5) * SPACING_MM - centre[:, None, None]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    return np.asarray(np.hypot(along / half_axes[0], across / half_axes[1]))


def head(rng: np.random.Generator, half_axes: Pixels) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask (rows, columns) uint8 of one head with these half axes (mm, outside of the skull)."""
    centre = np.array(SHAPE) * SPACING_MM / 2 + rng.uniform(-5, 5, 2)
    angle, thickness = rng.uniform(-0.5, 0.5), rng.uniform(2.5, 3.5)
    outside, inside = ellipse(centre, half_axes, angle), ellipse(centre, half_axes - thickness, angle)
    brain, skull = inside <= 1, (outside <= 1) & (inside > 1)
    strength = np.where(outside > rng.uniform(1.3, 1.5), 0.35, 0.02)  # uterine wall, amniotic fluid
    strength = np.where(brain, 0.10, strength)
    along = np.array([np.sin(angle), np.cos(angle)])
    for side in (-1, 1):
        place = centre + side * 0.35 * half_axes[1] * np.array([along[1], -along[0]])
        strength = np.where(ellipse(place, np.array([0.3, 0.12]) * half_axes, angle) < 1, 0.03, strength)
    midline = ellipse(centre, np.array([0.8 * half_axes[0], 1.0]), angle) < 1
    strength = np.where(midline, 0.6, strength)
    # A beam from above meets the skull squarely at the top and the bottom, and grazes its sides.
    down = np.abs(np.gradient(outside, axis=0)) / (np.hypot(*np.gradient(outside)) + 1e-9)
    strength = np.where(skull, 0.3 + 2.5 * down**2, strength)
    image = speckle(strength, rng)
    mask = np.where(brain, BRAIN, np.where(skull, SKULL, 0))
    return image, mask.astype(np.uint8)


def speckle(strength: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey levels 0 to 255 of scatterers of that strength: fully developed speckle, 50 dB, a beam that weakens with depth."""
    field = (rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE)) * strength
    field = ndimage.gaussian_filter(field, (0.8, 1.5)) * np.linspace(1.2, 0.7, SHAPE[0])[:, None]
    noise = rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE)
    decibel = 20 * np.log10(np.abs(field + 0.002 * noise) + 1e-9)
    return np.clip(255 * (1 + (decibel - 3) / 50), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make: images/, masks/ and fetal_head.yaml")
    parser.add_argument("--patients", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name in ("images", "masks"):
        (asked.out / name).mkdir(parents=True)
    for patient in range(1, asked.patients + 1):
        rng = np.random.default_rng([asked.seed, patient])
        half = rng.uniform(30, 42)
        half_axes = np.array([half * rng.uniform(1.2, 1.35), half])
        for number in range(1, IMAGES + 1):
            image, mask = head(rng, half_axes)
            Image.fromarray(image).save(asked.out / "images" / f"fetus{patient:03d}_{number}.png")
            Image.fromarray(mask).save(asked.out / "masks" / f"fetus{patient:03d}_{number}_mask.png")
    shutil.copyfile(SPEC, asked.out / SPEC.name)
    print(f"{IMAGES * asked.patients} images of {asked.patients} simulated patients in {asked.out}")


if __name__ == "__main__":
    main()
