"""The U-Net that ADM, DDPM++ and NCSN++ share; each of them is a `Architecture` of choices in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.blocks import FusedDown, UNetBlock
from echo_synth.diffusion.spade import Modulation, Spade, group_norm

BlockModulations = dict[str, Modulation]


@dataclass(frozen=True)
class UNetShape:
    """Sizes of a network; every architecture has them.

    Attributes:
        resolution: R of x, divisible by 2 to the number of levels minus one.
        classes: semantic classes of the label map.
        channels: width of the first level; `channel_mult` scales it at each level.
        blocks: residual blocks a level (the decoder has one more).
        attention: resolutions, px, that carry self-attention.
        dropout: probability, inside every residual block.
        spade_hidden: see `Spade`.
        embedding_mult: width of the noise embedding, in `channels`.
    """

    resolution: int
    classes: int
    channels: int
    channel_mult: Sequence[int]
    blocks: int
    attention: Sequence[int]
    dropout: float = 0.0
    spade_hidden: int = 128
    in_channels: int = 1
    out_channels: int = 1
    embedding_mult: int = 4


@dataclass(frozen=True)
class Architecture:
    """What tells the architectures apart.

    Attributes:
        block: keyword arguments of every `UNetBlock`.
        eps: of normalisations without SPADE.
        attend_every_block: decoder blocks at an attention resolution all attend, or the last one only.
        pyramid_taps: filter of the input pyramid that feeds every level (NCSN++), or None.
    """

    block: Mapping[str, Any]
    eps: float
    attend_every_block: bool
    pyramid_taps: Sequence[float] | None = None


class Modulations:
    """What a batch of label maps does to a network: γ and β of its SPADE layers, kept or made anew when asked for.

    Args:
        network: whose SPADE layers.
        onehot: (N, classes, R, R).
        kept: modulations by decoder block; blocks that are not in it are computed at each evaluation.
    """

    def __init__(self, network: SemanticUNet, onehot: Tensor, kept: dict[str, BlockModulations]) -> None:
        self.network, self.onehot, self.kept = network, onehot, kept

    def of(self, name: str) -> BlockModulations:
        """Modulations of decoder block `name`."""
        found = self.kept.get(name)
        return found if found is not None else self.network.modulate_block(name, self.onehot)

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        return sum(m.nbytes for block in self.kept.values() for m in block.values())

    def take(self, index: Tensor) -> Modulations:
        """Those of maps `index` (M,), for images that share maps."""
        kept = {name: {k: m.take(index) for k, m in block.items()} for name, block in self.kept.items()}
        return Modulations(self.network, self.onehot[index], kept)


class SemanticUNet(nn.Module):
    """F(x, noise label, modulations): (N, in_channels, R, R) to (N, out_channels, R, R).

    Keys of `enc` and `dec` name resolution and role ("64x64_block0"); they are those of the
    reference networks, so that published weights fit.

    Args:
        shape: sizes.
        architecture: architecture.
        map_noise: noise label (N,) to (N, noise_channels).
        noise_channels: see `map_noise`.
    """

    def __init__(self, shape: UNetShape, architecture: Architecture, map_noise: nn.Module, noise_channels: int) -> None:
        super().__init__()
        self.resolution, self.classes = shape.resolution, shape.classes
        embedding = shape.channels * shape.embedding_mult
        self.map_noise = map_noise
        self.map_layer0, self.map_layer1 = nn.Linear(noise_channels, embedding), nn.Linear(embedding, embedding)
        common = {**architecture.block, "embedding": embedding, "dropout": shape.dropout, "eps": architecture.eps}
        self.enc, skips = _encoder(shape, architecture, common)
        self.dec, width = _decoder(shape, architecture, common, skips)
        self.out_norm = group_norm(width, architecture.eps)
        self.out_conv = nn.Conv2d(width, shape.out_channels, 3, padding=1)
        with torch.no_grad():
            self.out_conv.weight *= 1e-5

    def one_hot(self, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, H, W) integer classes to (N, classes, H, W)."""
        return F.one_hot(labels.long(), self.classes).permute(0, 3, 1, 2).to(dtype)

    def modulate(
        self, labels: Tensor, dtype: torch.dtype = torch.float32, budget: int | None = None, fold: bool = False
    ) -> Modulations:
        """γ and β of every SPADE layer for `labels` (N, H, W): all that a label map contributes.

        Compute it once per map and pass it to every `forward` of a trajectory.

        Args:
            labels: integer classes.
            dtype: of the weights.
            budget: bytes to keep. Coarse levels are kept first: they are small; what exceeds the
                budget is recomputed at each evaluation. None keeps all, 0 nothing.
            fold: multiply GroupNorm's own parameters in; for inference.
        """
        onehot = self.one_hot(labels, dtype)
        kept: dict[str, BlockModulations] = {}
        left = budget
        for name in self.dec:  # coarsest first
            size = self.modulation_bytes(name, len(labels), onehot.element_size())
            if left is not None:
                if size > left:
                    break
                left -= size
            kept[name] = self.modulate_block(name, onehot, fold)
        return Modulations(self, onehot, kept)

    def _spades(self, name: str) -> list[tuple[str, Spade, tuple[int, int]]]:
        block = self.dec[name]
        assert isinstance(block, UNetBlock)
        side = int(name.split("x")[0])
        arrives = side // 2 if name.endswith("_up") else side
        return block.spades((arrives, arrives))

    def modulation_bytes(self, name: str, count: int, itemsize: int) -> int:
        """Memory of one decoder block's modulations for `count` maps."""
        return sum(2 * count * s.norm.num_channels * size[0] * size[1] * itemsize for _, s, size in self._spades(name))

    def modulate_block(self, name: str, onehot: Tensor, fold: bool = False) -> BlockModulations:
        """Modulations of one decoder block."""
        made = {key: (spade, spade.modulation(onehot, size)) for key, spade, size in self._spades(name)}
        return {key: spade.fold(m) if fold else m for key, (spade, m) in made.items()}

    def forward(self, x: Tensor, noise_label: Tensor, modulations: Modulations) -> Tensor:
        """F. x (N, in_channels, R, R) in the weights' dtype; noise_label (N,) float32."""
        embedding = F.silu(self.map_layer0(self.map_noise(noise_label).to(self.map_layer0.weight.dtype)))
        embedding = F.silu(self.map_layer1(embedding))
        x, skips = self._encode(x, embedding)
        for name, block in self.dec.items():
            if x.shape[1] != block.inputs:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, embedding, modulations.of(name))
        return self.out_conv(F.silu(self.out_norm(x)))

    def _encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        pyramid = x
        for block in self.enc.values():
            if isinstance(block, FusedDown):
                x = pyramid = skips[-1] = block.join(x, pyramid)
            else:
                x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
                skips.append(x)
        return x, skips


def _encoder(
    shape: UNetShape, architecture: Architecture, common: Mapping[str, Any]
) -> tuple[nn.ModuleDict, list[int]]:
    """Blocks from the finest level down, and the widths of their skip connections."""
    enc = nn.ModuleDict()
    enc[f"{shape.resolution}x{shape.resolution}_conv"] = nn.Conv2d(shape.in_channels, shape.channels, 3, padding=1)
    width, pyramid, skips = shape.channels, shape.in_channels, [shape.channels]
    for level, factor in enumerate(shape.channel_mult):
        side = shape.resolution >> level
        if level:
            enc[f"{side}x{side}_down"] = UNetBlock(width, width, resample="down", **common)
            skips.append(width)
            if architecture.pyramid_taps:
                enc[f"{side}x{side}_aux_residual"] = FusedDown(
                    pyramid, width, architecture.pyramid_taps, common["skip_scale"]
                )
                pyramid = width
        for i in range(shape.blocks):
            outputs = shape.channels * factor
            enc[f"{side}x{side}_block{i}"] = UNetBlock(width, outputs, attention=side in shape.attention, **common)
            width = outputs
            skips.append(width)
    return enc, skips


def _decoder(
    shape: UNetShape, architecture: Architecture, common: Mapping[str, Any], skips: list[int]
) -> tuple[nn.ModuleDict, int]:
    """Blocks from the coarsest level up, with SPADE, and the width of the last."""
    common = {**common, "spade": (shape.classes, shape.spade_hidden)}
    dec = nn.ModuleDict()
    width, coarsest = skips[-1], len(shape.channel_mult) - 1
    for level, factor in reversed(list(enumerate(shape.channel_mult))):
        side = shape.resolution >> level
        if level == coarsest:
            dec[f"{side}x{side}_in0"] = UNetBlock(width, width, attention=True, **common)
            dec[f"{side}x{side}_in1"] = UNetBlock(width, width, **common)
        else:
            dec[f"{side}x{side}_up"] = UNetBlock(width, width, resample="up", **common)
        for i in range(shape.blocks + 1):
            attend = side in shape.attention and (architecture.attend_every_block or i == shape.blocks)
            outputs = shape.channels * factor
            dec[f"{side}x{side}_block{i}"] = UNetBlock(width + skips.pop(), outputs, attention=attend, **common)
            width = outputs
    return dec, width
