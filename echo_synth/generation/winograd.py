"""Large 3x3 convolutions in fewer multiplications, to generate images in float32 on a CPU.

Winograd's minimal filtering F(4x4, 3x3), as in Lavin & Gray 2016 ("Fast Algorithms for Convolutional Neural Networks", section 4.2):
36 products instead of 144 for a tile of 4 x 4 outputs. Sums are taken in another order, so outputs differ by float32 rounding (3e-6 of
their size). In bf16 the same transforms lose 3 % of it, so there this is not used.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.diffusion.blocks import UNetBlock

_FEWEST_CHANNELS = 160  # in and out: with fewer, the transforms take longer than the products save
_FEWEST_TILES = 16  # an image: with fewer, reading the transformed weights does, which are four times as large
_TILES_AT_ONCE = 256  # of several images, if they are small: what is in between should fit into a cache
_TILE, _WINDOW = 4, 6  # outputs of a tile and the inputs that they depend on, a side

# Lavin & Gray's B^T, G and A^T: of the input, the filter and the output.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_FILTER = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # times 24
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@cache
def _both_ways(rows: tuple[tuple[int, ...], ...]) -> Tensor:
    """Matrix of the transform along height and width of flattened windows, float32; one for all layers."""
    one = torch.tensor(rows, dtype=torch.float32, device="cpu")
    return torch.kron(one, one)


class WinogradConv2d(nn.Conv2d):
    """A trained 3x3 convolution with stride 1 and padding 1: (N, I, H, W) to (N, O, H, W) float32, channels last.

    Where H and W are not multiples of 4, or an image has few tiles, it is the convolution that it was made of, to the last bit.

    Args:
        conv: float32 weights on the CPU; zero padding, one group. They are shared, not copied.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.filters: Tensor | None = None
        self.input, self.output = _both_ways(_INPUT), _both_ways(_OUTPUT)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        n, _, height, width = x.shape
        tiles = (height // _TILE) * (width // _TILE)
        if height % _TILE or width % _TILE or tiles < _FEWEST_TILES:
            return super().forward(x)
        y = x.new_empty(n, height, width, self.out_channels)
        group = max(1, _TILES_AT_ONCE // tiles)
        for some, filled in zip(x.permute(0, 2, 3, 1).split(group), y.split(group), strict=True):
            self._convolve(some, filled)
        return y.permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, y: Tensor) -> None:
        """Fill y (N, H, W, O) from x (N, H, W, I)."""
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        n, height, width, outputs = y.shape
        high, wide = height // _TILE, width // _TILE
        windows = padded.unfold(1, _WINDOW, _TILE).unfold(2, _WINDOW, _TILE)  # (N, high, wide, I, 6, 6)
        flat = windows.permute(4, 5, 0, 1, 2, 3).reshape(_WINDOW**2, -1)
        points = (self.input @ flat).view(_WINDOW**2, n * high * wide, -1)
        products = torch.bmm(points, self._filters()).view(_WINDOW**2, -1)
        tiles = (self.output @ products).view(_TILE, _TILE, n, high, wide, outputs)
        y.view(n, high, _TILE, wide, _TILE, outputs).copy_(tiles.permute(2, 3, 0, 4, 1, 5))
        if self.bias is not None:
            y += self.bias

    def _filters(self) -> Tensor:
        """(36, I, O): the transformed weights, four times as many numbers; made at the first call."""
        if self.filters is None:
            one = torch.tensor(_FILTER, dtype=torch.float64) / 24
            kernels = torch.einsum("ia,ocab,jb->ijco", one, self.weight.detach().double(), one)
            self.filters = kernels.flatten(0, 1).float().contiguous()
        return self.filters


def save_multiplications(network: nn.Module) -> None:
    """Replace the large 3x3 convolutions of every `UNetBlock` in `network`, in place.

    SPADE's own convolutions stay: they run once a map.
    """
    for block in [m for m in network.modules() if isinstance(m, UNetBlock)]:
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Conv2d) and _gains(layer):
                setattr(block, name, WinogradConv2d(layer))


def _gains(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (3, 3) and min(layer.in_channels, layer.out_channels) >= _FEWEST_CHANNELS
