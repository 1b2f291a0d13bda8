"""Convolutions in 8-bit integers, to generate images on CPUs that multiply these faster than bf16 (VNNI).

Weights are rounded once, inputs at every evaluation, both as in Jacob et al. 2018, eq. 1 to 9 ("Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference"). Normalisation, sums and the product of attention (not its
projections) keep the network's own dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from echo_synth.diffusion.blocks import UNetBlock

_FEWEST_CHANNELS = 64  # of the input: with fewer, rounding the input takes longer than the product saves
_LARGEST_WEIGHT = 127
_STEPS = 255  # between the smallest and the largest input


class Int8Conv2d(nn.Module):
    """A trained convolution with stride 1 and equal size of input and output, in 8 bits: (N, I, H, W) to (N, O, H, W), dtype of x.

    Each output channel of the weights has its scale, each image of the input its scale and zero: an image does not depend on the
    others of its batch. Values that are not finite give NaN, as without rounding.

    Args:
        conv: float32 weights; zero padding, one group. Not changed.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach().float()
        self.scale = (weight.abs().amax((1, 2, 3)) / _LARGEST_WEIGHT).clamp_min(torch.finfo(torch.float32).tiny)
        rounded = (weight / self.scale.reshape(-1, 1, 1, 1)).round().to(torch.int8)
        self.weight = rounded.contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.detach().float()
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        stride, dilation, groups = [1, 1], [1, 1], 1
        self.geometry = (stride, [size // 2 for size in conv.kernel_size], dilation, groups)
        self.packed: dict[torch.Size, Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"packed": {}}  # in oneDNN's own form, which cannot be copied

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([self._one(image) for image in x.split(1)])

    def _one(self, x: Tensor) -> Tensor:
        low, high = (float(v) for v in torch.aminmax(x.permute(0, 2, 3, 1)))  # in the order of memory: one pass
        step = (max(high, 0.0) - min(low, 0.0)) / _STEPS
        if not math.isfinite(step):
            return torch.full((1, len(self.scale), *x.shape[2:]), math.nan, dtype=x.dtype)
        step = max(step, torch.finfo(torch.float32).tiny)
        zero = round(-min(low, 0.0) / step)
        rounded = (x.float() * (1 / step)).add_(zero + 0.5).clamp_(0, _STEPS).to(torch.uint8)
        image, kernel = (rounded, step, zero), (self._packed(x.shape), self.scale, self.zeros, self.bias)
        output: tuple[object, ...] = (1.0, 0, x.dtype, "none", [], "")  # not rounded, nothing after it
        product: Tensor = torch.ops.onednn.qconv_pointwise(*image, *kernel, *self.geometry, *output)
        return product

    def _packed(self, shape: torch.Size) -> Tensor:
        """The weights in the order that the product reads; made once for each size of input."""
        if shape not in self.packed:
            input_scale_and_zero = (1.0, _STEPS // 2)  # of no effect on the packed weights
            kernel = (self.weight, self.scale, *input_scale_and_zero)
            self.packed[shape] = torch.ops.onednn.qconv_prepack(*kernel, *self.geometry, list(shape))
        return self.packed[shape]


def round_convolutions(network: nn.Module) -> None:
    """Replace the large convolutions of every `UNetBlock` in `network`, in place.

    Call it while the weights are float32. SPADE's own convolutions stay: they run once a map.
    """
    for block in [m for m in network.modules() if isinstance(m, UNetBlock)]:
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.in_channels >= _FEWEST_CHANNELS:
                setattr(block, name, Int8Conv2d(layer))
