"""ADM (Dhariwal & Nichol 2021) in Karras's EDM arrangement, with SPADE in the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.blocks import PositionalEmbedding, UNetBlock
from echo_synth.diffusion.spade import group_norm
from echo_synth.diffusion.unet import Modulations, SemanticUNet

_EPS = 1e-5


class AdmUNet(SemanticUNet):
    """F(x, noise label, modulations): (N, in_channels, R, R) to (N, out_channels, R, R).

    Args:
        resolution: R, divisible by 2 to the number of levels minus one.
        classes: semantic classes.
        channels: width of the first level; `channel_mult` scales it at each level.
        blocks: residual blocks a level (the decoder has one more).
        attention: resolutions, px, that carry self-attention.
        spade_hidden: see `Spade`.
    """

    def __init__(
        self,
        resolution: int,
        classes: int,
        channels: int,
        channel_mult: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        dropout: float = 0.0,
        spade_hidden: int = 128,
        in_channels: int = 1,
        out_channels: int = 1,
    ) -> None:
        super().__init__(resolution, classes)
        embedding = channels * 4
        self.map_noise = PositionalEmbedding(channels, endpoint=False)
        self.map_layer0 = nn.Linear(channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        common: dict[str, Any] = {
            "embedding": embedding, "adaptive_scale": True, "head_channels": 64, "project_skip": False,
            "skip_scale": 1.0, "dropout": dropout, "eps": _EPS, "taps": [1, 1],
        }  # fmt: skip
        widths = [channels * m for m in channel_mult]
        self.enc = nn.ModuleDict()
        self.enc[f"{resolution}x{resolution}_conv"] = nn.Conv2d(in_channels, channels, 3, padding=1)
        width, skips = channels, [channels]
        for level, outputs in enumerate(widths):
            side = resolution >> level
            if level:
                self.enc[f"{side}x{side}_down"] = UNetBlock(width, width, resample="down", **common)
                skips.append(width)
            for i in range(blocks):
                attend = side in attention
                self.enc[f"{side}x{side}_block{i}"] = UNetBlock(width, outputs, attention=attend, **common)
                width = outputs
                skips.append(width)
        common["spade"] = (classes, spade_hidden)
        self.dec = nn.ModuleDict()
        for level, outputs in reversed(list(enumerate(widths))):
            side = resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{side}x{side}_in0"] = UNetBlock(width, width, attention=True, **common)
                self.dec[f"{side}x{side}_in1"] = UNetBlock(width, width, **common)
            else:
                self.dec[f"{side}x{side}_up"] = UNetBlock(width, width, resample="up", **common)
            for i in range(blocks + 1):
                attend = side in attention
                inputs = width + skips.pop()
                self.dec[f"{side}x{side}_block{i}"] = UNetBlock(inputs, outputs, attention=attend, **common)
                width = outputs
        self.out_norm = group_norm(width, _EPS)
        self.out_conv = nn.Conv2d(width, out_channels, 3, padding=1)
        with torch.no_grad():
            self.out_conv.weight *= 1e-5

    def forward(self, x: Tensor, noise_label: Tensor, modulations: Modulations) -> Tensor:
        embedding = F.silu(self.map_layer0(self.map_noise(noise_label).to(self.map_layer0.weight.dtype)))
        embedding = F.silu(self.map_layer1(embedding))
        skips = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
            skips.append(x)
        x = self.decode(x, skips, embedding, modulations)
        return self.out_conv(F.silu(self.out_norm(x)))
