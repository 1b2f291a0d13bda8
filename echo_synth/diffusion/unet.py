"""What ADM and Song's U-Nets share: the decoder's label maps and how they reach its blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.blocks import UNetBlock
from echo_synth.diffusion.spade import Modulation

Modulations = dict[str, dict[str, Modulation]]


class SemanticUNet(nn.Module):
    """Base of the networks: F(x, noise label, modulations).

    Subclasses fill `enc` and `dec`, whose keys name resolution and role ("64x64_block0").

    Attributes:
        resolution: of x, (N, in_channels, resolution, resolution).
        classes: semantic classes of the label map.
    """

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def __init__(self, resolution: int, classes: int) -> None:
        super().__init__()
        self.resolution, self.classes = resolution, classes

    def one_hot(self, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, H, W) integer classes to (N, classes, H, W)."""
        return F.one_hot(labels.long(), self.classes).permute(0, 3, 1, 2).to(dtype)

    def modulate(self, labels: Tensor, dtype: torch.dtype = torch.float32) -> Modulations:
        """γ and β of every SPADE layer for `labels` (N, H, W): all that a label map contributes.

        Compute it once per map and pass it to every `forward` of a trajectory.
        """
        onehot = self.one_hot(labels, dtype)
        result: Modulations = {}
        for name, block in self.dec.items():
            if isinstance(block, UNetBlock):
                side = int(name.split("x")[0])
                arrives = side // 2 if name.endswith("_up") else side
                layers = block.spades((arrives, arrives))
                result[name] = {key: spade.modulation(onehot, size) for key, spade, size in layers}
        return result

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor, modulations: Modulations) -> Tensor:
        """Run the decoder's blocks; those whose width asks for it take a skip connection."""
        for name, block in self.dec.items():
            if isinstance(block, UNetBlock):
                if x.shape[1] != block.inputs:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, embedding, modulations[name])
        return x
