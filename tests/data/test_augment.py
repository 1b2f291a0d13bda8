"""Moves of images: the same under a training's autocast as without."""

from __future__ import annotations

import torch

from echo_synth.data.augment import GeometricRanges, draw_affine, warp


def test_autocast_moves_no_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 1, 128, 128, generator=generator)
    matrices = torch.stack([draw_affine(generator, GeometricRanges()) for _ in range(4)])
    plain = warp(image, matrices, "bilinear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(warp(image, matrices, "bilinear"), plain)
