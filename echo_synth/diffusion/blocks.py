"""What all U-Nets here are built of: resampling convolution, embeddings, the residual block.

Formulas: Karras et al. 2022 (EDM), appendix F; ADM (Dhariwal & Nichol 2021); Song et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.spade import Modulation, Spade, group_norm

Direction = Literal["up", "down"]


class Resample(nn.Module):
    """Factor-two up- or downsampling of every channel with a separable filter.

    (N, C, H, W) to (N, C, 2H, 2W), or to (N, C, H/2, W/2), which needs even H and W; dtype of x.

    Args:
        direction: "up" or "down".
        taps: filter of even length, e.g. [1, 1] (box) or [1, 3, 3, 1]; normalised here.
    """

    filter: Tensor

    def __init__(self, direction: Direction, taps: Sequence[float]) -> None:
        super().__init__()
        f = torch.as_tensor(taps, dtype=torch.float32, device="cpu")  # has its numbers on the meta device too
        f = torch.outer(f, f) / f.sum() ** 2
        self.up = direction == "up"
        self.padding = (len(taps) - 1) // 2
        self.box = list(taps) == [1, 1]
        self.register_buffer("filter", f * 4 if self.up else f, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.box:  # the same numbers from kernels that move less memory
            return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.avg_pool2d(x, 2)
        channels = x.shape[1]
        weight = self.filter.to(x.dtype).expand(channels, 1, -1, -1)
        convolve = F.conv_transpose2d if self.up else F.conv2d
        return convolve(x, weight, stride=2, padding=self.padding, groups=channels)


class FusedDown(nn.Module):
    """3x3 convolution and filtered downsampling as one padded operation: a level of NCSN++'s input pyramid.

    (N, I, H, W) to (N, O, H/2, W/2).

    Args:
        inputs, outputs: channels I and O.
        taps: see `Resample`.
        scale: factor of the sum in `join`.
    """

    def __init__(self, inputs: int, outputs: int, taps: Sequence[float], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)
        self.resample = Resample("down", taps)

    def forward(self, x: Tensor) -> Tensor:
        p = self.resample.padding
        y = F.conv2d(x, self.weight.to(x.dtype), padding=1 + p)
        f = self.resample.filter.to(y.dtype).expand(y.shape[1], 1, -1, -1)
        return F.conv2d(y, f, stride=2, groups=y.shape[1]) + self.bias.to(y.dtype).reshape(1, -1, 1, 1)

    def join(self, x: Tensor, pyramid: Tensor) -> Tensor:
        """(x + this level of the pyramid) · scale; the result is also the pyramid of the next level.

        Args:
            x: (N, O, H/2, W/2), the encoder's own features at this level.
            pyramid: (N, I, H, W), the level before.
        """
        return (x + self(pyramid)) * self.scale


def _waves(angle: Tensor, sine_first: bool) -> Tensor:
    waves = [angle.cos(), angle.sin()]
    return torch.cat(waves[::-1] if sine_first else waves, dim=1)


class PositionalEmbedding(nn.Module):
    """Sinusoids of the noise label: (N,) to (N, channels) float32.

    Args:
        channels: even.
        endpoint: whether the lowest frequency is 1/10000 itself (Song) or just above (ADM).
        sine_first: sines before cosines, as the published weights have them.
    """

    def __init__(self, channels: int, endpoint: bool, sine_first: bool = False) -> None:
        super().__init__()
        self.channels, self.endpoint, self.sine_first = channels, endpoint, sine_first

    def forward(self, label: Tensor) -> Tensor:
        half = self.channels // 2
        steps = torch.arange(half, device=label.device, dtype=torch.float32)
        frequencies = (1 / 10000) ** (steps / (half - self.endpoint))
        return _waves(torch.outer(label.float(), frequencies), self.sine_first)


class FourierEmbedding(nn.Module):
    """Random Fourier features of the noise label: (N,) to (N, channels) float32; the frequencies are a buffer.

    Args:
        channels: even.
        scale: standard deviation of the frequencies.
        sine_first: sines before cosines, as the published weights have them.
    """

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0, sine_first: bool = False) -> None:
        super().__init__()
        self.sine_first = sine_first
        self.register_buffer("freqs", torch.randn(channels // 2, device="cpu") * scale)

    def forward(self, label: Tensor) -> Tensor:
        return _waves(torch.outer(label.float(), 2 * pi * self.freqs), self.sine_first)


@dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of an architecture share.

    Attributes:
        adaptive_scale: the noise embedding gives scale and shift of the second normalisation (ADM)
            instead of a bias before it (Song).
        head_channels: channels of an attention head; 0 means one head.
        project_skip: a 1x1 convolution on the shortcut of resampling blocks too (Song).
        skip_scale: factor of every residual sum.
        taps: filter of up- and downsampling, see `Resample`.
        eps: of normalisations without SPADE.
    """

    adaptive_scale: bool
    head_channels: int
    project_skip: bool
    skip_scale: float
    taps: tuple[float, ...]
    eps: float


class UNetBlock(nn.Module):
    """Residual block with noise embedding, optional resampling, SPADE and self-attention.

    Args:
        inputs, outputs: channels of x, (N, C, H, W).
        embedding: channels of the noise embedding, (N, E).
        style: of the architecture.
        dropout: probability, before the second convolution.
        resample: "up", "down" or None, before the first convolution and on the shortcut.
        attention: whether self-attention follows.
        spade: (classes, hidden channels of `Spade`) in the decoder, None in the encoder.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        style: BlockStyle,
        *,
        dropout: float,
        resample: Direction | None = None,
        attention: bool = False,
        spade: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.adaptive_scale, self.skip_scale, self.dropout = style.adaptive_scale, style.skip_scale, dropout
        self.heads = (max(1, outputs // style.head_channels) if style.head_channels else 1) if attention else 0

        def norm(channels: int) -> nn.Module:
            return Spade(channels, *spade) if spade else group_norm(channels, style.eps)

        self.resample = Resample(resample, style.taps) if resample else nn.Identity()
        self.norm0 = norm(inputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, outputs * (2 if style.adaptive_scale else 1))
        self.norm1 = norm(outputs)
        self.conv1 = _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        project = inputs != outputs or (style.project_skip and resample is not None)
        self.skip = nn.Conv2d(inputs, outputs, 1) if project else nn.Identity()
        if self.heads:
            self.norm2 = norm(outputs)
            self.qkv = nn.Conv2d(outputs, outputs * 3, 1)
            self.proj = _zeroed(nn.Conv2d(outputs, outputs, 1))

    def forward(self, x: Tensor, embedding: Tensor, modulations: dict[str, Modulation] | None = None) -> Tensor:
        """(N, outputs, H, W), or twice or half of H and W where the block resamples; dtype of x.

        Args:
            x: (N, inputs, H, W).
            embedding: (N, E), dtype of x.
            modulations: by normalisation (norm0, norm1, norm2), on the grids that `spades` names; of SPADE layers only.
        """
        m = modulations or {}
        h = self.conv0(self.resample(F.silu(_normalise(self.norm0, x, m.get("norm0")))))
        params = self.affine(embedding)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = params.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, _normalise(self.norm1, h, m.get("norm1")), scale + 1))
        else:
            h = F.silu(_normalise(self.norm1, h + params, m.get("norm1")))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (h + self.skip(self.resample(x))) * self.skip_scale
        if self.heads:
            x = (self.proj(self._attend(_normalise(self.norm2, x, m.get("norm2")))) + x) * self.skip_scale
        return x

    def _attend(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = self.qkv(x).reshape(n, self.heads, c // self.heads, 3, height * width)
        # One copy to (N, heads, H W, C / heads): the fused kernels need channels side by side in memory,
        # and without them torch computes the whole (H W)² matrix.
        q, k, v = qkv.permute(3, 0, 1, 4, 2).contiguous()
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, height, width, c)
        attended = attended.permute(0, 3, 1, 2)
        return attended if x.is_contiguous(memory_format=torch.channels_last) else attended.contiguous()

    def spades(self, size: tuple[int, int]) -> list[tuple[str, Spade, tuple[int, int]]]:
        """This block's SPADE layers: name, layer, and the grid (H, W) it works on when x arrives at `size`."""
        up = isinstance(self.resample, Resample) and self.resample.up
        after = (size[0] * 2, size[1] * 2) if up else size
        sizes = {"norm0": size, "norm1": after, "norm2": after}
        return [(n, s, sizes[n]) for n in sizes if isinstance(s := getattr(self, n, None), Spade)]


def _normalise(norm: nn.Module, x: Tensor, modulation: Modulation | None) -> Tensor:
    return norm(x) if modulation is None else norm(x, modulation)


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """Near-zero start: every residual branch begins as the identity."""
    with torch.no_grad():
        conv.weight *= 1e-5
        if conv.bias is not None:
            conv.bias.zero_()
    return conv
