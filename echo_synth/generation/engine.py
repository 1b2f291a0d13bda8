"""From condition maps to images: noise, sampler, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from echo_synth.diffusion.denoiser import Denoiser, Guided
from echo_synth.sampling import sample
from echo_synth.vae.network import GammaVAE

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Sampler:
    """How to sample: what `echo_synth.sampling.sample` takes besides denoiser and noise."""

    nfe: int
    solver: str
    discretization: str
    schedule: str = "linear"
    scaling: str = "none"


def image_noise(seed: int, index: int, resolution: int) -> NDArray[np.float32]:
    """Unit normal (1, R, R) of image `index` of a dataset: depends on (seed, index) only, on any device."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    return rng.standard_normal((1, resolution, resolution), dtype=np.float32)


class Generator:
    """Draws images for tissue maps.

    Args:
        denoiser: diffusion model.
        vae: decoder of its latents, or None for models on pixels.
        device: where to compute.
        precision: fp32, bf16 or fp16 of the network's weights; steps are taken in float64.
    """

    def __init__(self, denoiser: Denoiser, vae: GammaVAE | None, device: str, precision: str) -> None:
        self.device, self.dtype = device, _DTYPES[precision]
        self.denoiser = denoiser.to(device).to(memory_format=torch.channels_last)
        self.denoiser.network.to(self.dtype)
        self.vae = vae.to(device).to(memory_format=torch.channels_last) if vae else None
        if self.vae:
            self.vae.to(self.dtype)
        self.resolution = denoiser.network.resolution

    @torch.inference_mode()
    def fields(
        self, tissues: NDArray[np.uint8], views: NDArray[np.uint8], noise: NDArray[np.float32], how: Sampler
    ) -> Tensor:
        """Denoised fields (N, 1, R, R) float32 in [−1, 1]: latents, or pixels.

        Args:
            tissues: (N, 256, 256) tissue ids.
            views: (N,) 0 for 2CH, 1 for 4CH.
            noise: (N, 1, R, R) unit normal.
        """
        maps = torch.from_numpy(np.ascontiguousarray(tissues)).to(self.device)[:, None].float()
        small = F.interpolate(maps, size=(self.resolution, self.resolution), mode="nearest-exact")[:, 0]
        labels = small.long() + 5 * torch.from_numpy(views).to(self.device).long().reshape(-1, 1, 1)
        inside = (small > 0)[:, None]
        guided = Guided(self.denoiser, self.denoiser.modulate(labels, self.dtype), inside)
        start = torch.from_numpy(noise).to(self.device)
        return sample(
            guided, start, nfe=how.nfe, solver=how.solver,
            discretization=how.discretization, schedule=how.schedule, scaling=how.scaling,
            round_sigma=self.denoiser.precond.round_sigma,
            net_sigmas=(self.denoiser.precond.sigma_min, self.denoiser.precond.sigma_max),
        )  # fmt: skip

    @torch.inference_mode()
    def images(self, fields: Tensor, tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Grey levels (N, 256, 256) uint8, 0 outside the sector, of `fields`."""
        sector = (torch.from_numpy(np.ascontiguousarray(tissues)).to(self.device) > 0)[:, None]
        unit = (fields + 1) / 2
        if self.vae is not None:
            small = self.vae.latent_mask(sector.float())
            pixels = self.vae.decode((unit.clamp_min(0) * small).to(self.dtype), sector.to(self.dtype)).float()
        else:
            pixels = F.interpolate(unit, size=sector.shape[-2:], mode="bilinear") * sector
        grey = (pixels.clamp(0, 1) * 255).round()
        # In-sector pixels are at least 1, so that the sector can be read off the image again.
        return torch.where(sector, grey.clamp_min(1), 0)[:, 0].byte().cpu().numpy()

    def draw(
        self, tissues: NDArray[np.uint8], views: NDArray[np.uint8], seed: int, indices: Sequence[int], how: Sampler
    ) -> NDArray[np.uint8]:
        """Images (N, 256, 256) uint8 number `indices` of a dataset with that seed."""
        noise = np.stack([image_noise(seed, i, self.resolution) for i in indices])
        return self.images(self.fields(tissues, views, noise, how), tissues)


def default_sampler(precond: str, nfe: int, solver: str) -> Sampler:
    """The discretisation that each formulation was published with; linear σ(t) (EDM's finding) throughout."""
    return Sampler(nfe, solver, precond)
