"""Conversion between images in [0, 1] and the fields in [−1, 1] of a diffusion model.

Previews of training, the fields that training stores, and generation all use it. The sector is known on
the image's grid, from the tissue map: the latent's mask is this sector resampled to the latent grid, and the
decoded image is masked with the fine one. (Masks enlarged from the latent grid
have steps of 2 to 4 pixels along the edge.) Outside the sector a field is −1 and an image is 0,
whatever the network's output is there. Networks compute in the precision of their weights; results are float32.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from echo_synth.vae.network import GammaVAE


class Codec(Protocol):
    """Images to fields and back.

    Attributes:
        resolution: R, side of the fields in pixels.
        channels: C of the fields.
    """

    resolution: int
    channels: int

    def encode(self, images: Tensor, sector: Tensor) -> Tensor:
        """Fields (N, C, R, R) float32 in [−1, 1], −1 outside the sector.

        Args:
            images: (N, 1, H, W) float32 in [0, 1].
            sector: (N, 1, H, W) 0 or 1.
        """
        ...

    def decode(self, fields: Tensor, sector: Tensor) -> Tensor:
        """Images (N, 1, H, W) float32 in [0, 1], 0 outside the sector; NaN where the network's output is not finite.

        Args:
            fields: (N, C, R, R) in [−1, 1]; values outside are clipped.
            sector: (N, 1, H, W) 0 or 1, or bool.
        """
        ...


class PixelCodec:
    """The field is 2 · image − 1 at R x R: shrunk by area, enlarged bilinearly."""

    channels = 1

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def encode(self, images: Tensor, sector: Tensor) -> Tensor:
        """See `Codec.encode`."""
        small = F.interpolate(sector, size=(self.resolution, self.resolution), mode="nearest-exact")
        return _as_field(F.adaptive_avg_pool2d(images, self.resolution), small)

    def decode(self, fields: Tensor, sector: Tensor) -> Tensor:
        """See `Codec.decode`."""
        pixels = F.interpolate((fields + 1) / 2, size=sector.shape[-2:], mode="bilinear") * sector
        return _unit(pixels)


class LatentCodec:
    """The field is 2 · E[z] − 1 of a Γ-VAE (or of its Gaussian twin); E[z] above 1 is rare and kept.

    Args:
        vae: in evaluation mode, on the device and in the precision that it shall compute in.
        resolution: side of its latents.
    """

    def __init__(self, vae: GammaVAE, resolution: int) -> None:
        self.vae, self.resolution, self.channels = vae, resolution, vae.latent_channels

    def encode(self, images: Tensor, sector: Tensor) -> Tensor:
        """See `Codec.encode`."""
        return _as_field(self.vae.latent(images, sector), self.vae.latent_mask(sector))

    def decode(self, fields: Tensor, sector: Tensor) -> Tensor:
        """See `Codec.decode`."""
        dtype = self.vae.from_latent.weight.dtype
        latent = self.vae.admissible((fields + 1) / 2) * self.vae.latent_mask(sector.float())
        return _unit(self.vae.decode(latent.to(dtype), sector.to(dtype)).float())


def build_codec(vae: GammaVAE | None, resolution: int) -> PixelCodec | LatentCodec:
    """The codec of a diffusion model with fields of `resolution`: latents of `vae`, or pixels if it is None."""
    return PixelCodec(resolution) if vae is None else LatentCodec(vae, resolution)


def _unit(pixels: Tensor) -> Tensor:
    """Clipped to [0, 1]; infinity is no white pixel but NaN."""
    return torch.where(pixels.isfinite(), pixels.clamp(0, 1), torch.nan)


def _as_field(unit: Tensor, small: Tensor) -> Tensor:
    return torch.where(small > 0, 2 * unit.float() - 1, -1.0)
