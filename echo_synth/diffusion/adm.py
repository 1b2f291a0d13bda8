"""ADM (Dhariwal & Nichol 2021) in Karras's EDM arrangement, with SPADE in the decoder."""

from __future__ import annotations

from echo_synth.diffusion.blocks import BlockStyle, PositionalEmbedding
from echo_synth.diffusion.unet import Architecture, SemanticUNet, UNetShape

_ADM = Architecture(
    block=BlockStyle(adaptive_scale=True, head_channels=64, project_skip=False, skip_scale=1.0, taps=(1, 1), eps=1e-5),
    attend_every_block=True,
)


class AdmUNet(SemanticUNet):
    """ADM's choices in `SemanticUNet`."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__(shape, _ADM, PositionalEmbedding(shape.channels, endpoint=False), shape.channels)
