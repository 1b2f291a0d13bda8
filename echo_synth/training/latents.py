"""Clean fields for a diffusion model, computed once: E[z] of augmented copies, or the pixels themselves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from echo_synth.data.augment import GeometricRanges, draw_affine, geometric
from echo_synth.data.prepared import Prepared
from echo_synth.progress import Meter
from echo_synth.training.diffusion_task import Fields
from echo_synth.training.streams import generator
from echo_synth.vae.network import GammaVAE

_AUGMENT = 3


def _nearest(values: Tensor, size: int) -> Tensor:
    return F.interpolate(values, size=(size, size), mode="nearest-exact")


@torch.no_grad()
def clean_fields(
    data: Prepared,
    rows: NDArray[np.intp],
    resolution: int,
    vae: GammaVAE | None,
    copies: int,
    ranges: GeometricRanges,
    seed: int,
    device: str,
    bf16: bool = False,
) -> Fields:
    """Fields of `rows`, `copies` times: the first copy as it is, the others moved at random.

    Images are moved before they are encoded: a moved latent is not the latent of the moved
    image, its speckle is smoothed.

    Args:
        resolution: R of the diffusion model.
        vae: gives 2 E[z] − 1; without one the field is 2 · image − 1, resized to R by area.
    """
    total = copies * len(rows)
    clean = np.empty((total, resolution, resolution), np.float16 if vae else np.float32)
    tissues = np.empty((total, resolution, resolution), np.uint8)
    meter = Meter(total, "latents" if vae else "fields", "images")
    for copy in range(copies):
        for start in range(0, len(rows), 16):
            chunk = rows[start : start + 16]
            images = torch.from_numpy(np.ascontiguousarray(data.images[chunk])).to(device)[:, None].float() / 255
            maps = torch.from_numpy(np.ascontiguousarray(data.tissues[chunk])).to(device)[:, None].float()
            if copy:
                generators = [generator(seed, copy * len(rows) + start + i, _AUGMENT) for i in range(len(chunk))]
                images, maps = geometric(images, maps, torch.stack([draw_affine(g, ranges) for g in generators]))
            small = _nearest(maps, resolution)
            at = slice(copy * len(rows) + start, copy * len(rows) + start + len(chunk))
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                field = vae.latent(images, (maps > 0).float()) if vae else F.adaptive_avg_pool2d(images, resolution)
            field = torch.where(small > 0, 2 * field.float() - 1, -1.0)
            clean[at], tissues[at] = field[:, 0].cpu().numpy(), small[:, 0].byte().cpu().numpy()
            meter.update(len(chunk))
    meter.close()
    return Fields(clean, tissues, np.tile(data.views[rows], copies))
