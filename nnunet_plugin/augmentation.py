"""Augmentation that a probe could produce, on whole batches of tensors: seconds a thousand images on one core."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_BLUR_RADIUS = 2  # pixels


@dataclass(frozen=True)
class Ranges:
    """How far an image may be changed; each image draws its own values, evenly or evenly in the logarithm.

    Attributes:
        geometric: share of images that are moved.
        rotation: largest angle, radians.
        scale: largest factor, and one over the smallest.
        shift: largest shift, as a share of the image's side.
        gain, gamma: largest factor and exponent, and one over the smallest; `intensity`: share of images with each.
        noise: largest standard deviation, for images in [0, 1]; `noisy`: share of images with it.
        blur: smallest and largest standard deviation, pixels; `blurred`: share of images with it.
        flip: share of images that are mirrored left to right.
    """

    geometric: float = 0.7
    rotation: float = math.radians(15)
    scale: float = 1.25
    shift: float = 0.06
    intensity: float = 0.4
    gain: float = 1.3
    gamma: float = 1.4
    noisy: float = 0.15
    noise: float = 0.05
    blurred: float = 0.2
    blur: tuple[float, float] = (0.5, 1.2)
    flip: float = 0.0


def augment(images: Tensor, labels: Tensor, ranges: Ranges, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move and recolour each image, and move its labels with it.

    Everything outside the sector is 0 before and stays exactly 0.

    Args:
        images: (N, 1, H, W) float32 in [0, 1], background 0.
        labels: (N, 1, H, W) of any integer type, background 0.
        generator: on the CPU; the same state gives the same batch.

    Returns:
        images (N, 1, H, W) float32, at least 0; labels of the given type.
    """
    shape = (images.shape[-2], images.shape[-1])
    matrices = _matrices(len(images), shape, ranges, generator)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False).to(images.device)
    moved = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    moved_labels = F.grid_sample(labels.float(), grid, mode="nearest", align_corners=False).to(labels.dtype)
    sector = moved > 0
    recoloured = _blur(_noise(_grey_levels(moved, ranges, generator), ranges, generator), ranges, generator)
    return recoloured.clamp_min(0) * sector, moved_labels


def _draw(count: int, generator: torch.Generator) -> Tensor:
    """(N,) evenly in [−1, 1)."""
    return torch.rand(count, generator=generator) * 2 - 1


def _chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """(N,) bool, each True with probability `share`."""
    return torch.rand(count, generator=generator) < share


def _matrices(count: int, shape: tuple[int, int], ranges: Ranges, generator: torch.Generator) -> Tensor:
    """(N, 2, 3) from output to input coordinates, as `affine_grid` takes them, for images of `shape` (rows, columns).

    Its coordinates run from −1 to 1 along both axes; a turn is one in pixels, whatever the shape.
    """
    tall = shape[0] / shape[1]
    moved = _chosen(count, ranges.geometric, generator)
    angle = _draw(count, generator) * ranges.rotation * moved
    scale = torch.exp(_draw(count, generator) * math.log(ranges.scale) * moved)
    across = _draw(count, generator) * 2 * ranges.shift * moved
    down = _draw(count, generator) * 2 * ranges.shift * moved
    mirror = 1 - 2 * _chosen(count, ranges.flip, generator).float()
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos * mirror, -sin * tall, across], 1), torch.stack([sin * mirror / tall, cos, down], 1)]
    return torch.stack(rows, 1)


def _grey_levels(images: Tensor, ranges: Ranges, generator: torch.Generator) -> Tensor:
    count = len(images)
    gamma = _draw(count, generator) * math.log(ranges.gamma) * _chosen(count, ranges.intensity, generator)
    gain = _draw(count, generator) * math.log(ranges.gain) * _chosen(count, ranges.intensity, generator)
    exponent, factor = (torch.exp(v).view(-1, 1, 1, 1).to(images.device) for v in (gamma, gain))
    return images.clamp_min(1e-6) ** exponent * factor


def _noise(images: Tensor, ranges: Ranges, generator: torch.Generator) -> Tensor:
    chosen = _chosen(len(images), ranges.noisy, generator).nonzero()[:, 0]
    if len(chosen) == 0:
        return images
    strength = torch.rand(len(chosen), generator=generator).view(-1, 1, 1, 1) * ranges.noise
    noise = torch.randn(len(chosen), *images.shape[1:], generator=generator) * strength
    return images.index_add(0, chosen.to(images.device), noise.to(images.device))


def _blur(images: Tensor, ranges: Ranges, generator: torch.Generator) -> Tensor:
    """Gaussian blur of the chosen images, each with its own width: one group of the convolution an image."""
    chosen = _chosen(len(images), ranges.blurred, generator).nonzero()[:, 0]
    if len(chosen) == 0:
        return images
    narrow, wide = ranges.blur
    sigma = narrow + (wide - narrow) * torch.rand(len(chosen), 1, generator=generator)
    taps = torch.exp(-(torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1.0) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum(1, keepdim=True)).to(images.device)
    chosen = chosen.to(images.device)
    stack = images[chosen][:, 0][None]  # (1, chosen, H, W)
    stack = F.conv2d(stack, taps[:, None, :, None], padding=(_BLUR_RADIUS, 0), groups=len(chosen))
    stack = F.conv2d(stack, taps[:, None, None, :], padding=(0, _BLUR_RADIUS), groups=len(chosen))
    return images.index_copy(0, chosen, stack[0][:, None])
