"""The U-Net that ADM, DDPM++ and NCSN++ share; an `Architecture` says in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.blocks import BlockStyle, FusedDown, UNetBlock
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
        image_channels: C of x: one, or the channels of a VAE's latents.
        map_input: whether the label map also enters as channels beside x, as SegGuidedDiff does (Konz et al. 2024);
            the paper's maps act through SPADE alone.
        soft_maps: label maps are shares of classes, and coarser levels get their means; the paper's
            are one-hot and taken to coarser levels by nearest neighbour.
    """

    resolution: int
    classes: int
    channels: int
    channel_mult: Sequence[int]
    blocks: int
    attention: Sequence[int]
    dropout: float = 0.0
    spade_hidden: int = 128
    out_channels: int = 1
    embedding_mult: int = 4
    map_input: bool = False
    soft_maps: bool = False
    image_channels: int = 1

    @property
    def in_channels(self) -> int:
        """Of the first convolution."""
        return self.image_channels + (self.classes if self.map_input else 0)


@dataclass(frozen=True)
class Architecture:
    """What tells the architectures apart.

    Attributes:
        block: style of every residual block.
        attend_every_block: decoder blocks at an attention resolution all attend, or the last one only.
        pyramid_taps: filter of the input pyramid that feeds every level (NCSN++), or None.
    """

    block: BlockStyle
    attend_every_block: bool
    pyramid_taps: Sequence[float] | None = None


class MapSizes:
    """Label maps (N, classes, R, R) on coarser grids, each made once however many layers ask for it.

    Args:
        onehot: the maps.
        mode: of resizing, "nearest" or "area".
    """

    def __init__(self, onehot: Tensor, mode: str) -> None:
        self.mode, self.made = mode, {tuple(onehot.shape[-2:]): onehot}
        self.finest = onehot

    def at(self, size: tuple[int, int]) -> Tensor:
        """Maps (N, classes, *size)."""
        if size not in self.made:
            self.made[size] = F.interpolate(self.finest, size=size, mode=self.mode)
        return self.made[size]


class Modulations:
    """γ and β that a batch of label maps gives to the SPADE layers of a network.

    They depend on the maps alone, so they are computed once and kept for all evaluations of a
    trajectory, as far as memory allows; the others are computed again at each evaluation.

    Args:
        network: whose SPADE layers.
        onehot: (N, classes, R, R) label maps, dtype of the weights.
        kept: modulations by name of the decoder block.
    """

    def __init__(self, network: SemanticUNet, onehot: Tensor, kept: dict[str, BlockModulations]) -> None:
        self.network, self.onehot, self.kept = network, onehot, kept

    def of(self, name: str) -> BlockModulations:
        """Modulations of decoder block `name`: those that are kept, else computed now."""
        kept = self.kept.get(name)
        return kept if kept is not None else self.network.modulate_block(name, self.network.map_sizes(self.onehot))

    @property
    def nbytes(self) -> int:
        """Memory of what is kept, bytes."""
        return sum(m.nbytes for block in self.kept.values() for m in block.values())

    def take(self, index: Tensor) -> Modulations:
        """Those of maps `index`, (M,) int64 in [0, N), for images that share maps."""
        kept = {name: {k: m.take(index) for k, m in block.items()} for name, block in self.kept.items()}
        return Modulations(self.network, self.onehot[index], kept)


class SemanticUNet(nn.Module):
    """F(x, noise label, modulations): (N, C, R, R) to (N, out_channels, R, R).

    Keys of `enc` and `dec` name resolution and role ("64x64_block0"); they are those of the
    reference networks, so that published weights fit.

    Args:
        shape: sizes.
        architecture: architecture.
        map_noise: noise label (N,) to (N, noise_channels).
        noise_channels: see `map_noise`.

    Raises:
        ValueError: the resolution cannot be halved between all levels.
    """

    def __init__(self, shape: UNetShape, architecture: Architecture, map_noise: nn.Module, noise_channels: int) -> None:
        super().__init__()
        coarsest = shape.resolution >> (len(shape.channel_mult) - 1)
        if coarsest << (len(shape.channel_mult) - 1) != shape.resolution or coarsest < 1:
            raise ValueError(f"resolution {shape.resolution} cannot be halved {len(shape.channel_mult) - 1} times")
        self.resolution, self.classes, self.image_channels = shape.resolution, shape.classes, shape.image_channels
        self.map_input, self.soft_maps = shape.map_input, shape.soft_maps
        embedding = shape.channels * shape.embedding_mult
        self.map_noise = map_noise
        self.map_layer0, self.map_layer1 = nn.Linear(noise_channels, embedding), nn.Linear(embedding, embedding)
        self.enc, skips = _encoder(shape, architecture, embedding)
        self.dec, width = _decoder(shape, architecture, embedding, skips)
        self.out_norm = group_norm(width, architecture.block.eps)
        self.out_conv = nn.Conv2d(width, shape.out_channels, 3, padding=1)
        with torch.no_grad():
            self.out_conv.weight *= 1e-5

    def one_hot(self, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, H, W) integers in [0, classes) to (N, classes, H, W), 0 or 1."""
        return F.one_hot(labels.long(), self.classes).permute(0, 3, 1, 2).to(dtype)

    def modulate(
        self, labels: Tensor, dtype: torch.dtype = torch.float32, budget: int | None = None, fold: bool = False
    ) -> Modulations:
        """γ and β of every SPADE layer for `labels`: all that a label map contributes.

        Compute it once per map and pass it to every `forward` of a trajectory.

        Args:
            labels: (N, H, W) integer classes; with soft maps (N, classes, H, W) shares.
            dtype: of the weights.
            budget: bytes to keep. Coarse levels are kept first: they are small; what exceeds the
                budget is recomputed at each evaluation. None keeps all, 0 nothing.
            fold: multiply GroupNorm's own parameters in; for inference.
        """
        onehot = labels.to(dtype) if self.soft_maps else self.one_hot(labels, dtype)
        sizes = self.map_sizes(onehot)
        kept: dict[str, BlockModulations] = {}
        left = budget
        for name in self.dec:  # coarsest first
            size = self.modulation_bytes(name, len(labels), onehot.element_size())
            if left is not None:
                if size > left:
                    break
                left -= size
            kept[name] = self.modulate_block(name, sizes, fold)
        return Modulations(self, onehot, kept)

    def map_sizes(self, onehot: Tensor) -> MapSizes:
        """Label maps (N, classes, R, R) on the grids that the SPADE layers ask for."""
        return MapSizes(onehot, "area" if self.soft_maps else "nearest")

    def _spades(self, name: str) -> list[tuple[str, Spade, tuple[int, int]]]:
        block = self.dec[name]
        assert isinstance(block, UNetBlock)
        side = int(name.split("x")[0])
        arrives = side // 2 if name.endswith("_up") else side
        return block.spades((arrives, arrives))

    def modulation_bytes(self, name: str, count: int, itemsize: int) -> int:
        """Memory, in bytes, of one decoder block's modulations for `count` maps at `itemsize` bytes a number."""
        return sum(2 * count * s.norm.num_channels * size[0] * size[1] * itemsize for _, s, size in self._spades(name))

    def modulate_block(self, name: str, sizes: MapSizes, fold: bool = False) -> BlockModulations:
        """Modulations of one decoder block, by normalisation, for the maps `sizes`; `fold`: see `Spade.modulation`."""
        return {key: spade.modulation(sizes.at(size), fold) for key, spade, size in self._spades(name)}

    def forward(self, x: Tensor, noise_label: Tensor, modulations: Modulations) -> Tensor:
        """F, (N, out_channels, R, R) in the weights' dtype.

        Args:
            x: (N, C, R, R), same dtype.
            noise_label: (N,) float32, c_noise(σ).
            modulations: of N label maps, from `modulate`.
        """
        embedding = F.silu(self.map_layer0(self.map_noise(noise_label).to(self.map_layer0.weight.dtype)))
        embedding = F.silu(self.map_layer1(embedding))
        if self.map_input:
            x = torch.cat([x, modulations.onehot.to(x.dtype)], dim=1)
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


def _encoder(shape: UNetShape, architecture: Architecture, embedding: int) -> tuple[nn.ModuleDict, list[int]]:
    """Blocks from the finest level down, and the widths of their skip connections."""
    block = partial(UNetBlock, embedding=embedding, style=architecture.block, dropout=shape.dropout)
    enc = nn.ModuleDict()
    enc[f"{shape.resolution}x{shape.resolution}_conv"] = nn.Conv2d(shape.in_channels, shape.channels, 3, padding=1)
    width, pyramid, skips = shape.channels, shape.in_channels, [shape.channels]
    for level, factor in enumerate(shape.channel_mult):
        side = shape.resolution >> level
        if level:
            enc[f"{side}x{side}_down"] = block(width, width, resample="down")
            skips.append(width)
            if architecture.pyramid_taps:
                enc[f"{side}x{side}_aux_residual"] = FusedDown(
                    pyramid, width, architecture.pyramid_taps, architecture.block.skip_scale
                )
                pyramid = width
        for i in range(shape.blocks):
            outputs = shape.channels * factor
            enc[f"{side}x{side}_block{i}"] = block(width, outputs, attention=side in shape.attention)
            width = outputs
            skips.append(width)
    return enc, skips


def _decoder(
    shape: UNetShape, architecture: Architecture, embedding: int, skips: list[int]
) -> tuple[nn.ModuleDict, int]:
    """Blocks from the coarsest level up, with SPADE, and the width of the last."""
    spade = (shape.classes, shape.spade_hidden)
    block = partial(UNetBlock, embedding=embedding, style=architecture.block, dropout=shape.dropout, spade=spade)
    dec = nn.ModuleDict()
    width, coarsest = skips[-1], len(shape.channel_mult) - 1
    for level, factor in reversed(list(enumerate(shape.channel_mult))):
        side = shape.resolution >> level
        if level == coarsest:
            dec[f"{side}x{side}_in0"] = block(width, width, attention=True)
            dec[f"{side}x{side}_in1"] = block(width, width)
        else:
            dec[f"{side}x{side}_up"] = block(width, width, resample="up")
        for i in range(shape.blocks + 1):
            attend = side in shape.attention and (architecture.attend_every_block or i == shape.blocks)
            outputs = shape.channels * factor
            dec[f"{side}x{side}_block{i}"] = block(width + skips.pop(), outputs, attention=attend)
            width = outputs
    return dec, width
