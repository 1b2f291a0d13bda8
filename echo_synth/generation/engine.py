"""From condition maps to images: noise, sampler, decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from echo_synth.device import INT8, drawing_precision, memory_left, to_device
from echo_synth.diffusion.denoiser import Denoiser, Guided, cast_network
from echo_synth.diffusion.labels import semantic_classes, semantic_shares, tissue_shares
from echo_synth.diffusion.unet import Modulations
from echo_synth.errors import RunError
from echo_synth.generation.compiled import compile_parts
from echo_synth.generation.int8 import round_convolutions
from echo_synth.generation.ways import check_ways
from echo_synth.generation.winograd import save_multiplications
from echo_synth.sampling import sample
from echo_synth.sampling.ode import Draw
from echo_synth.vae.codec import build_codec
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.texture import Texture

MODULATION_BYTES = 4 << 30
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _nothing() -> None: ...


@dataclass(frozen=True)
class SamplerSettings:
    """How to sample: what `echo_synth.sampling.sample` takes besides denoiser and noise."""

    nfe: int
    solver: str
    discretization: str
    schedule: str = "linear"
    scaling: str = "none"
    sigmas: tuple[float, ...] | None = None
    sigma_max: float | None = None


def image_noise(seed: int, index: int, resolution: int, channels: int = 1) -> NDArray[np.float32]:
    """Unit normal (channels, R, R) of image `index` of a dataset: depends on (seed, index) only, on any device."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    return rng.standard_normal((channels, resolution, resolution), dtype=np.float32)


def step_noise(seed: int, indices: Sequence[int], device: str) -> Draw:
    """Fresh noise for stochastic solvers: call k gives image i what depends on (seed, i, k) only.

    Its stream is apart from that of `image_noise`, which starts at counter 0.
    """
    calls = 0

    def draw(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        streams = [np.random.Generator(np.random.Philox(key=[seed, i], counter=calls << 64)) for i in indices]
        values = np.stack([s.standard_normal(tuple(x.shape[1:]), dtype=np.float32) for s in streams])
        return to_device(values, device).to(x.dtype)

    return draw


class ImageGenerator:
    """Generates images for tissue maps.

    Args:
        denoiser: diffusion model.
        vae: decoder of its latents, or None for models on pixels.
        device: where to compute.
        precision: of the network's weights, as `drawing_precision` gives it; steps are taken in float64.
        fast: channels-last layout, fused attention, SPADE modulations once per map, in float32 on a CPU fewer multiplications in
            large convolutions; False is the plain way, for comparison.
        modulation_bytes: memory for modulations that are kept during a trajectory; on a GPU at most half of what is free there.
        compiled: pass network and decoder through torch.compile, see `compile_parts`. Use one batch size: each
            other size is compiled again.
        texture: fine speckle that `draw` adds to decoded images; None for none.

    Raises SpecError for int8 with `compiled`, RunError where the device does not compute in `precision`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        vae: GammaVAE | None,
        device: str,
        precision: str,
        fast: bool = True,
        modulation_bytes: int = MODULATION_BYTES,
        compiled: bool = False,
        texture: Texture | None = None,
    ) -> None:
        check_ways(precision, compiled)
        self.device, self.texture, self.fast = device, texture, fast
        self.dtype = _DTYPES[drawing_precision(precision, device).removeprefix("int8-")]
        layout = torch.channels_last if fast else torch.contiguous_format
        self.denoiser = denoiser.to(device).to(memory_format=layout)
        if precision in INT8:
            round_convolutions(self.denoiser.network)
        elif fast and self.dtype == torch.float32 and device == "cpu" and not compiled:
            save_multiplications(self.denoiser.network)
        cast_network(self.denoiser.network, self.dtype)
        decoder = vae.to(device).to(memory_format=layout).to(self.dtype) if vae else None
        self.resolution = denoiser.network.resolution
        self.codec = build_codec(decoder, self.resolution)
        free = memory_left(device)  # beside the weights
        self.modulation_bytes = modulation_bytes if free is None else min(modulation_bytes, free // 2)
        self.compiled = compiled
        if compiled:
            compile_parts([self.denoiser.network, *([decoder.decoder] if decoder else [])], device)

    def noise(self, seed: int, indices: Sequence[int]) -> NDArray[np.float32]:
        """`image_noise` of images number `indices`, (N, C, R, R)."""
        channels = self.denoiser.network.image_channels
        return np.stack([image_noise(seed, i, self.resolution, channels) for i in indices])

    def labels(self, tissues: NDArray[np.uint8], frames: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """The network's condition, and sectors (N, 1, R, R) bool, of tissue maps (N, 256, 256) and frames (N,).

        The former are semantic classes (N, R, R), or their shares (N, classes, R, R) for a network of soft maps.
        """
        maps = to_device(tissues, self.device)
        kinds = to_device(frames, self.device)
        side, network = self.resolution, self.denoiser.network
        small = F.interpolate(maps[:, None].float(), size=(side, side), mode="nearest-exact")[:, 0]
        if network.soft_maps:
            labels = semantic_shares(tissue_shares(maps, side), kinds, network.classes)
        else:
            labels = semantic_classes(small, kinds, network.classes)
        return labels, (small > 0)[:, None]

    @torch.inference_mode()
    def fields(
        self,
        tissues: NDArray[np.uint8],
        frames: NDArray[np.uint8],
        noise: NDArray[np.float32],
        settings: SamplerSettings,
        draw: Draw = torch.randn_like,
        on_evaluation: Callable[[], None] = _nothing,
    ) -> Tensor:
        """Denoised fields (N, C, R, R) float32 in [−1, 1]: latents, or pixels.

        Args:
            tissues: (N, 256, 256) tissue ids.
            frames: (N,) 0 to 3, see `diffusion.labels`.
            noise: (N, C, R, R) unit normal.
            draw: more noise, for stochastic solvers.
            on_evaluation: called after each of the network's evaluations.
        """
        return self.solve(self.guide(tissues, frames), noise, settings, draw, on_evaluation)

    @torch.inference_mode()
    def guide(self, tissues: NDArray[np.uint8], frames: NDArray[np.uint8]) -> Guided:
        """The denoiser of these maps, as `fields` takes them; for several trajectories of the same maps."""
        labels, inside = self.labels(tissues, frames)
        return Guided(self.denoiser, self.modulate(labels), inside)

    @torch.inference_mode()
    def solve(
        self,
        guided: Guided,
        noise: NDArray[np.float32],
        settings: SamplerSettings,
        draw: Draw = torch.randn_like,
        on_evaluation: Callable[[], None] = _nothing,
    ) -> Tensor:
        """`fields` of maps by `guide`."""
        start = to_device(noise, self.device)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            denoised = guided(x, sigma)
            on_evaluation()
            return denoised

        precond = self.denoiser.precond
        known = (precond.sigma_min, precond.sigma_max)
        with nullcontext() if self.fast else sdpa_kernel(SDPBackend.MATH):
            return sample(
                denoise, start, **asdict(settings), draw=draw, round_sigma=precond.round_sigma, net_sigmas=known
            )

    def modulate(self, labels: Tensor) -> Modulations:
        """SPADE modulations of `labels` (see there), each different map once."""
        if not self.fast:
            return self.denoiser.modulate(labels, self.dtype, budget=0)
        different, index = torch.unique(labels, dim=0, return_inverse=True)
        if len(different) == len(labels):
            return self.denoiser.modulate(labels, self.dtype, self.modulation_bytes, fold=True)
        return self.denoiser.modulate(different, self.dtype, self.modulation_bytes, fold=True).take(index)

    @torch.inference_mode()
    def images(self, fields: Tensor, tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Grey levels (N, 256, 256) uint8, 0 outside the sector, of `fields`.

        Raises RunError when a field or a decoded image is not finite: such an image must never reach a dataset.
        """
        if not bool(torch.isfinite(fields).all()):
            raise RunError("the sampler gave values that are not finite; use another --solver, --nfe or --precision")
        sector = (to_device(tissues, self.device) > 0)[:, None]
        images = self.codec.decode(fields, sector)
        if not bool(torch.isfinite(images).all()):
            raise RunError(
                "the decoder gave values that are not finite; use another --precision, or train the Γ-VAE again"
            )
        grey = (images * 255).round()
        # In-sector pixels are at least 1, so that the sector can be read off the image again.
        return torch.where(sector, grey.clamp_min(1), 0)[:, 0].byte().cpu().numpy()

    def draw(
        self,
        tissues: NDArray[np.uint8],
        frames: NDArray[np.uint8],
        seed: int,
        indices: Sequence[int],
        settings: SamplerSettings,
        on_evaluation: Callable[[], None] = _nothing,
    ) -> NDArray[np.uint8]:
        """Images (N, 256, 256) uint8 number `indices` of a dataset with that seed."""
        noise = self.noise(seed, indices)
        draw = step_noise(seed, indices, self.device)
        images = self.images(self.fields(tissues, frames, noise, settings, draw, on_evaluation), tissues)
        if self.texture is None:
            return images
        return np.stack([self.texture.draw(image, seed, i) for image, i in zip(images, indices, strict=True)])


def default_settings(
    precond: str, nfe: int, solver: str, sigmas: tuple[float, ...] | None = None, sigma_max: float | None = None
) -> SamplerSettings:
    """The published discretisation of each formulation, from `sigma_max` down, or the levels `sigmas`; linear σ(t), as EDM recommends."""
    return SamplerSettings(nfe, solver, precond, sigmas=sigmas, sigma_max=sigma_max)
