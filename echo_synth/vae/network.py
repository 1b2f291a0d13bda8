"""Encoder and decoder of the Γ-VAE; attention is MONAI's.

Symmetric, with one latent channel unless more are asked for; each level halves (or doubles) the grid. The module layout, and
so the order of its blocks, is that of MONAI's AutoencoderKL, from which the paper started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.vae.posterior import GammaPosterior, GaussianPosterior, Posterior, PosteriorFamily

Activation = Callable[[Tensor], Tensor]
_EPS = 1e-6


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@dataclass(frozen=True)
class Style:
    """What all blocks of one network share.

    `activation` is SiLU and attention ends in a projection; the reference code lacks the
    former, and never applies the latter although its weights hold one.
    """

    groups: int
    activation: Activation
    projection: bool


class ResidualBlock(nn.Module):
    """Norm, activation, convolution, twice, plus a shortcut. (N, I, H, W) to (N, O, H, W)."""

    def __init__(self, inputs: int, outputs: int, style: Style) -> None:
        super().__init__()
        groups = style.groups
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, _EPS), _conv3(inputs, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, _EPS), _conv3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.activation = style.activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.activation(self.norm1(x)))
        h = self.conv2(self.activation(self.norm2(h)))
        return self.shortcut(x) + h


class Downsample(nn.Module):
    """Strided 3x3 convolution, padded on the right and below. (N, C, H, W) to (N, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour, then a 3x3 convolution. (N, C, H, W) to (N, C, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _attention(channels: int, style: Style) -> nn.Module:
    # MONAI takes longer to import than all the rest; sizes without attention, which CPUs use, do without.
    from echo_synth.vae.attention import Attention

    return Attention(channels, style.groups, _EPS, style.projection)


def _bottleneck(channels: int, style: Style, attention: bool) -> list[nn.Module]:
    middle = [_attention(channels, style)] if attention else []
    first = ResidualBlock(channels, channels, style)
    return [first, *middle, ResidualBlock(channels, channels, style)]


@dataclass(frozen=True)
class _Shape:
    """What encoder and decoder share; see `GammaVAE`."""

    channels: Sequence[int]
    blocks: int
    style: Style
    level_attention: bool
    mid_attention: bool
    subpixel: int
    latent_channels: int

    def norm(self, width: int) -> nn.GroupNorm:
        return nn.GroupNorm(self.style.groups, width, _EPS)


def _encoder(shape: _Shape) -> nn.Sequential:
    """(N, 1, H, W) to (N, latent_channels, H / (subpixel · 2^(levels - 1)), …)."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(shape.subpixel)] if shape.subpixel > 1 else []
    width = shape.channels[0]
    layers.append(_conv3(shape.subpixel**2, width))
    for level, outputs in enumerate(shape.channels):
        last = level == len(shape.channels) - 1
        for _ in range(shape.blocks):
            layers.append(ResidualBlock(width, outputs, shape.style))
            width = outputs
            if last and shape.level_attention:
                layers.append(_attention(width, shape.style))
        if not last:
            layers.append(Downsample(width))
    layers += _bottleneck(width, shape.style, shape.mid_attention)
    return nn.Sequential(*layers, shape.norm(width), _conv3(width, shape.latent_channels))


def _decoder(shape: _Shape) -> nn.Sequential:
    """(N, latent_channels, h, w) to (N, 1, h · subpixel · 2^(levels - 1), …)."""
    width = shape.channels[-1]
    layers: list[nn.Module] = [
        _conv3(shape.latent_channels, width),
        *_bottleneck(width, shape.style, shape.mid_attention),
    ]
    for level, outputs in reversed(list(enumerate(shape.channels))):
        for _ in range(shape.blocks):
            layers.append(ResidualBlock(width, outputs, shape.style))
            width = outputs
            if level == len(shape.channels) - 1 and shape.level_attention:
                layers.append(_attention(width, shape.style))
        if level > 0:
            layers.append(Upsample(width))
    last: list[nn.Module] = [shape.norm(width), _conv3(width, shape.subpixel**2)]
    if shape.subpixel > 1:
        last.append(nn.PixelShuffle(shape.subpixel))
    return nn.Sequential(*layers, *last)


class GammaVAE(nn.Module):
    """Γ-VAE with a single latent channel (paper section 2.2 and 2.3), its Gaussian twin, and both with several channels.

    Args:
        channels: width of each level, finest first; the grid halves between levels.
        blocks: residual blocks per level.
        norm_groups: groups of every GroupNorm.
        level_attention, mid_attention: self-attention on the last level, in the bottleneck.
        alpha_prior, beta_prior: shape and rate of the prior.
        activation, projection: see `Style`; "none" and False for weights of the reference code.
        subpixel: s; the finest level sees s x s pixels as channels of one, so that no layer works on the full grid.
            At the same number of weights a step takes a third of the time; 1 is the paper's.
        latent_channels: C of the latents; one in the paper's Γ-VAE, several in the VAE that it is compared with.
        posterior: "gamma", or "gaussian" for the standard KL-VAE of the same size (its prior is N(0, 1)).
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int = 2,
        norm_groups: int = 32,
        level_attention: bool = True,
        mid_attention: bool = True,
        alpha_prior: float = 3.75,
        beta_prior: float = 10.8,
        activation: str = "silu",
        projection: bool = True,
        posterior: PosteriorFamily = "gamma",
        subpixel: int = 1,
        latent_channels: int = 1,
    ) -> None:
        super().__init__()
        functions: dict[str, Activation] = {"silu": F.silu, "none": _identity}
        function = functions[activation]
        style = Style(norm_groups, function, projection)
        shape = _Shape(channels, blocks, style, level_attention, mid_attention, subpixel, latent_channels)
        self.encoder, self.decoder = _encoder(shape), _decoder(shape)
        self.to_alpha, self.to_beta, self.from_latent = (_Pointwise(latent_channels) for _ in range(3))
        if posterior == "gamma":
            _begin_at_the_prior(self.to_alpha, self.to_beta)
        self.alpha_prior, self.beta_prior, self.family = alpha_prior, beta_prior, posterior
        self.latent_channels = latent_channels
        self.downsampling = subpixel * 2 ** (len(channels) - 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps a and b, (N, C, h, w), of images (N, 1, H, W) in [0, 1]."""
        h = self.encoder(images)
        return self.to_alpha(h), self.to_beta(h)

    def posterior(self, images: Tensor) -> Posterior:
        """q(z | x) of images (N, 1, H, W) in [0, 1]; its tensors (N, C, h, w), float32."""
        a, b = self.encode(images)
        if self.family == "gaussian":
            return GaussianPosterior.of_maps(a, b)
        return GammaPosterior.of_maps(a, b, self.alpha_prior, self.beta_prior)

    def latent_mask(self, sector: Tensor) -> Tensor:
        """Sector (N, 1, H, W), 0 or 1, on the latent grid by nearest neighbour; same dtype."""
        return F.interpolate(sector, scale_factor=1 / self.downsampling, mode="nearest-exact")

    def latent(self, images: Tensor, sector: Tensor) -> Tensor:
        """E[z] (N, C, h, w) float32, zero outside the sector. Deterministic."""
        return self.posterior(images).mean * self.latent_mask(sector)

    def admissible(self, latent: Tensor) -> Tensor:
        """`latent` without values that the prior excludes: Γ has no negative values."""
        return latent.clamp_min(0) if self.family == "gamma" else latent

    def decode(self, latent: Tensor, sector: Tensor) -> Tensor:
        """Images (N, 1, H, W), nominally in [0, 1] and not clipped, zero outside the sector."""
        return self.decoder(self.from_latent(latent)) * sector


def _begin_at_the_prior(*layers: nn.Conv2d) -> None:
    """Biases of 1, whose softplus is 1, and small weights: the first posteriors are nearly the prior, as the Gaussian twin's are.

    About 0 they are Γ(0.26, 0.75) and in places far wider: gradients are noise. Trainings were seen that never left it, or
    whose means grew to a million before the latent term counted.
    """
    for layer in layers:
        assert layer.bias is not None
        nn.init.ones_(layer.bias)
        with torch.no_grad():
            layer.weight.mul_(0.1)


class _Pointwise(nn.Conv2d):
    """1 x 1 convolution among the latent's channels, (N, C, h, w).

    With one channel it is a factor and a summand. Convolution kernels divide so small a layer by the number of threads, and
    then round in another way (seen on an AMD EPYC, float32), by which images would depend on that number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels > 1:
            return super().forward(x)
        assert self.bias is not None
        return x * self.weight.view(1) + self.bias


def _identity(x: Tensor) -> Tensor:
    return x
