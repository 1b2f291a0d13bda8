"""DDPM++ and NCSN++ (Song et al. 2021) in Karras's EDM arrangement, with SPADE in the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.blocks import (
    SONG_SKIP_SCALE,
    FourierEmbedding,
    FusedDown,
    PositionalEmbedding,
    UNetBlock,
)
from echo_synth.diffusion.spade import group_norm
from echo_synth.diffusion.unet import Modulations, SemanticUNet

_EPS = 1e-6


class SongUNet(SemanticUNet):
    """F(x, noise label, modulations): (N, in_channels, R, R) to (N, out_channels, R, R).

    DDPM++ is the default; NCSN++ has embedding "fourier", `residual_input` True,
    `noise_mult` 2 and taps [1, 3, 3, 1]. Other arguments as in `AdmUNet`.
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
        embedding_type: str = "positional",
        residual_input: bool = False,
        noise_mult: int = 1,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(resolution, classes)
        embedding, noise = channels * 4, channels * noise_mult
        fourier = embedding_type == "fourier"
        self.map_noise = FourierEmbedding(noise) if fourier else PositionalEmbedding(noise, endpoint=True)
        self.map_layer0, self.map_layer1 = nn.Linear(noise, embedding), nn.Linear(embedding, embedding)
        common: dict[str, Any] = {
            "embedding": embedding, "adaptive_scale": False, "head_channels": 0, "project_skip": True,
            "skip_scale": SONG_SKIP_SCALE, "dropout": dropout, "eps": _EPS, "taps": taps,
        }  # fmt: skip
        widths = [channels * m for m in channel_mult]
        self.enc = nn.ModuleDict()
        self.enc[f"{resolution}x{resolution}_conv"] = nn.Conv2d(in_channels, channels, 3, padding=1)
        width, pyramid, skips = channels, in_channels, [channels]
        for level, outputs in enumerate(widths):
            side = resolution >> level
            if level:
                self.enc[f"{side}x{side}_down"] = UNetBlock(width, width, resample="down", **common)
                skips.append(width)
                if residual_input:
                    self.enc[f"{side}x{side}_aux_residual"] = FusedDown(pyramid, width, taps)
                    pyramid = width
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
                attend = i == blocks and side in attention  # only the last block of a level
                inputs = width + skips.pop()
                self.dec[f"{side}x{side}_block{i}"] = UNetBlock(inputs, outputs, attention=attend, **common)
                width = outputs
        self.out_norm = group_norm(width, _EPS)
        self.out_conv = nn.Conv2d(width, out_channels, 3, padding=1)
        with torch.no_grad():
            self.out_conv.weight *= 1e-5

    def forward(self, x: Tensor, noise_label: Tensor, modulations: Modulations) -> Tensor:
        cosine, sine = self.map_noise(noise_label).to(self.map_layer0.weight.dtype).chunk(2, dim=1)
        embedding = F.silu(self.map_layer0(torch.cat([sine, cosine], dim=1)))
        embedding = F.silu(self.map_layer1(embedding))
        pyramid = x
        skips: list[Tensor] = []
        for block in self.enc.values():
            if isinstance(block, FusedDown):
                x = pyramid = skips[-1] = (x + block(pyramid)) * SONG_SKIP_SCALE
            else:
                x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
                skips.append(x)
        x = self.decode(x, skips, embedding, modulations)
        return self.out_conv(F.silu(self.out_norm(x)))
