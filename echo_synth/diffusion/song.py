"""DDPM++ and NCSN++ (Song et al. 2021) in Karras's EDM arrangement, with SPADE in the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

from echo_synth.diffusion.blocks import BlockStyle, FourierEmbedding, PositionalEmbedding
from echo_synth.diffusion.unet import Architecture, SemanticUNet, UNetShape


class SongUNet(SemanticUNet):
    """DDPM++ by default; NCSN++ has embedding "fourier", `residual_input` True, `noise_mult` 2, taps [1, 3, 3, 1].

    Args:
        shape: sizes.
        embedding_type: "positional" or "fourier", of the noise label.
        residual_input: whether a pyramid of the input feeds every level of the encoder.
        noise_mult: width of the noise features, in `shape.channels`.
        taps: filter of up- and downsampling.
    """

    def __init__(
        self,
        shape: UNetShape,
        embedding_type: Literal["positional", "fourier"] = "positional",
        residual_input: bool = False,
        noise_mult: int = 1,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        noise = shape.channels * noise_mult
        fourier = embedding_type == "fourier"
        embedding = (
            FourierEmbedding(noise, sine_first=True)
            if fourier
            else PositionalEmbedding(noise, endpoint=True, sine_first=True)
        )
        style = BlockStyle(
            adaptive_scale=False,
            head_channels=0,
            project_skip=True,
            skip_scale=sqrt(0.5),
            taps=tuple(taps),
            eps=1e-6,
        )
        pyramid = tuple(taps) if residual_input else None
        architecture = Architecture(block=style, attend_every_block=False, pyramid_taps=pyramid)
        super().__init__(shape, architecture, embedding, noise)
