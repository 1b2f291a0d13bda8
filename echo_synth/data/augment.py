"""Augmentation: parameters are drawn first, then applied; image and map move together.

Diffusion models see geometric changes alone, the Γ-VAE also changes of grey levels.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class GeometricRanges:
    """Uniform ranges: ± degrees, ± fraction of the image, factor, probability of a left-right flip."""

    rotation_deg: float = 10.0
    shift: float = 0.1
    scale: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.5


@dataclass(frozen=True)
class ColourRanges:
    """Gain, brightness and gamma of in-sector grey levels in [0, 1]."""

    gain: tuple[float, float] = (0.8, 1.2)
    brightness: float = 0.05
    gamma: tuple[float, float] = (0.8, 1.25)


def draw_affine(generator: torch.Generator, ranges: GeometricRanges) -> Tensor:
    """One inverse affine matrix (2, 3) for `affine_grid`, in its normalised coordinates."""
    u = torch.rand(5, generator=generator, device=generator.device).cpu()
    angle = torch.deg2rad((2 * u[0] - 1) * ranges.rotation_deg)
    low, high = ranges.scale
    inverse = 1 / (low + u[1] * (high - low))
    shift = (2 * u[2:4] - 1) * 2 * ranges.shift
    flip = -1.0 if u[4] < ranges.flip else 1.0
    c, s = torch.cos(angle) * inverse, torch.sin(angle) * inverse
    matrix = torch.stack([torch.stack([c * flip, -s * flip]), torch.stack([s, c])])
    return torch.cat([matrix, -(matrix @ shift)[:, None]], dim=1)


def warp(image: Tensor, matrices: Tensor, mode: str) -> Tensor:
    """`image` (N, C, H, W) float, each moved by its matrix (N, 2, 3); what comes from outside is 0.

    `mode` is "bilinear" for grey levels and "nearest" for labels.
    """
    # Trainings augment within autocast, whose bf16 would place pixels up to 0.6 pixels beside where they belong.
    device = image.device.type
    known = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if known else nullcontext():
        grid = F.affine_grid(matrices.to(image), list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode=mode, padding_mode="zeros", align_corners=False)


def geometric(images: Tensor, tissues: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Move images (N, 1, H, W) in [0, 1] and tissue maps (N, 1, H, W) float together.

    The image is cut to the moved sector, so that background stays exactly 0.
    """
    moved = warp(tissues, matrices, "nearest")
    return warp(images, matrices, "bilinear") * (moved > 0), moved


def draw_colour(generator: torch.Generator, ranges: ColourRanges) -> Tensor:
    """Gain, brightness, gamma: (3,)."""
    u = torch.rand(3, generator=generator, device=generator.device).cpu()
    gain = ranges.gain[0] + u[0] * (ranges.gain[1] - ranges.gain[0])
    gamma = ranges.gamma[0] + u[2] * (ranges.gamma[1] - ranges.gamma[0])
    return torch.stack([gain, (2 * u[1] - 1) * ranges.brightness, gamma])


def colour(images: Tensor, sector: Tensor, parameters: Tensor) -> Tensor:
    """clip(gain · image^gamma + brightness) inside the sector, 0 outside; images (N, 1, H, W) in [0, 1]."""
    gain, brightness, gamma = (p.reshape(-1, 1, 1, 1).to(images) for p in parameters.unbind(1))
    return ((images.clamp_min(1e-6) ** gamma) * gain + brightness).clamp(0, 1) * sector
