"""Measuring the grain that a trained VAE's reconstructions lack, on training images only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from echo_synth.data.prepared import Prepared
from echo_synth.errors import RunError
from echo_synth.progress import track
from echo_synth.runs.folder import TEXTURE, WEIGHTS, file_hash, open_run
from echo_synth.runs.tensors import load_tensors, load_weights, save_tensors
from echo_synth.vae.loss import reconstruct
from echo_synth.vae.network import GammaVAE
from echo_synth.vae.texture import fit_texture

_IMAGES = 160  # spread over the training patients; twice as many change the figures in the third digit


def write_texture(run: Path, vae: GammaVAE, data: Prepared, device: str) -> None:
    """Fit the texture of the weights in `run` and write it there, unless it is theirs already; none without fans.

    Args:
        vae: network of the run's size, on `device`; its weights are replaced.
    """
    weights = file_hash(run / WEIGHTS)
    if _is_of(run, weights):
        return
    load_weights(vae, run / WEIGHTS)
    rows = data.rows("train")
    chosen = rows[np.linspace(0, len(rows) - 1, min(_IMAGES, len(rows))).astype(int)]
    try:
        texture = fit_texture(_pairs(vae.eval(), data, chosen, device))
    except ValueError as e:
        print(f"{run.name}: no texture ({e})", file=sys.stderr)
        (run / TEXTURE).unlink(missing_ok=True)
        return
    tensors = {name: torch.from_numpy(getattr(texture, name)) for name in ("deviation", "spectrum")}
    save_tensors(run / TEXTURE, tensors, {"weights": weights, "images": len(chosen)})


def _is_of(run: Path, weights: str) -> bool:
    """Whether the run has the texture of these weights; a damaged one is made again."""
    try:
        open_run(run, "vae").load_texture()
        return bool(load_tensors(run / TEXTURE)[1].get("weights") == weights)
    except RunError:
        return False


@torch.no_grad()
def _pairs(
    vae: GammaVAE, data: Prepared, rows: NDArray[np.intp], device: str
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Training images and what the VAE makes of them, as generation would write it."""
    for row in track(rows, len(rows), "texture", "images"):
        image = np.array(data.images[row])
        sector = torch.from_numpy(np.ascontiguousarray(data.tissues[row] > 0)).to(device)[None, None].float()
        drawn = reconstruct(vae, torch.from_numpy(image).to(device)[None, None].float() / 255, sector)
        grey = ((drawn * 255).round().clamp_min(1) * sector)[0, 0]
        yield image, grey.byte().cpu().numpy()
