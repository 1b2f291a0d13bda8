"""Clean fields for a diffusion model, computed once and kept: E[z] of augmented copies, or the pixels themselves."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from echo_synth.claims import claim, lock_beside
from echo_synth.data.augment import GeometricRanges, draw_affine, geometric
from echo_synth.data.prepared import Prepared
from echo_synth.diffusion.labels import TISSUES, tissue_shares
from echo_synth.errors import DataError, RunError
from echo_synth.files import new_array, open_array, read_json, write_json
from echo_synth.folders import new_folder
from echo_synth.home import home
from echo_synth.progress import Meter
from echo_synth.training.streams import Stream, generator
from echo_synth.training.tasks.diffusion import Fields
from echo_synth.vae.codec import Codec

_BATCH = 16
_LARGEST = 1e2  # latents are about 1; beyond, their Γ-VAE has diverged, and a diffusion model would learn nothing
_WAIT_SECONDS = 3600.0  # for another training that makes the same fields


@dataclass(frozen=True)
class FieldRecipe:
    """Everything that the fields of given cases depend on.

    Attributes:
        resolution: R of the diffusion model.
        vae: hash of the weights that give 2 E[z] − 1; None: the field is 2 · image − 1, resized to R by area.
        copies: of each case; the first as it is, the others moved at random.
        ranges: of those movements.
        seed: of those movements.
        bf16: whether the VAE encodes under bf16 autocast.
        soft: whether the tissues' shares of each cell are kept too.
    """

    resolution: int
    vae: str | None
    copies: int
    ranges: GeometricRanges
    seed: int
    bf16: bool
    soft: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As it is hashed; what earlier versions did not know is left out where it is off."""
        return {k: v for k, v in asdict(self).items() if k != "soft" or v}


def kept_fields(
    data: Prepared, rows: NDArray[np.intp], codec: Codec, recipe: FieldRecipe, name: str, device: str
) -> Fields:
    """Fields of `rows`, memory-mapped, from ECHOSYNTH_HOME/prepared where an earlier run has made them."""
    identity = {**recipe.as_dict(), "data": data.fingerprint, "rows": hashlib.sha256(rows.tobytes()).hexdigest()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = home() / "prepared" / f"{name}_fields{recipe.resolution}_{digest}"
    shape = _shape(recipe, len(rows), codec)
    try:
        arrays = _open(folder, shape, recipe.soft)
    except DataError:  # none, or damaged
        with claim(lock_beside(folder.with_name(f"{folder.name}_first")), wait=_WAIT_SECONDS):
            if not _is_whole(folder, shape, recipe.soft):  # nor has another training made them meanwhile
                _write(data, rows, codec, recipe, identity, folder, device)
        arrays = _open(folder, shape, recipe.soft)
    clean, tissues, shares = arrays
    return Fields(clean, tissues, np.tile(data.frames[rows], recipe.copies), shares)


def _is_whole(folder: Path, shape: tuple[int, ...], soft: bool) -> bool:
    try:
        _open(folder, shape, soft)
    except DataError:
        return False
    return True


def _open(
    folder: Path, shape: tuple[int, ...], soft: bool
) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Clean fields, tissues and their shares. Raises DataError where there are none, or not all, or damaged ones."""
    read_json(folder / "fields.json")
    count, grid = shape[0], shape[-2:]
    clean, tissues = (
        open_array(folder / "clean.npy", np.float16, shape),
        open_array(folder / "tissues.npy", np.uint8, (count, *grid)),
    )
    shares = open_array(folder / "shares.npy", np.uint8, (count, TISSUES, *grid)) if soft else None
    return clean, tissues, shares


def _write(
    data: Prepared,
    rows: NDArray[np.intp],
    codec: Codec,
    recipe: FieldRecipe,
    identity: Mapping[str, Any],
    folder: Path,
    device: str,
) -> None:
    shape = _shape(recipe, len(rows), codec)
    count, grid = shape[0], shape[-2:]
    meter = Meter(count, "latents" if recipe.vae else "fields", "images")
    with new_folder(folder, "latents", overwrite=True, wait=_WAIT_SECONDS) as new:
        clean = new_array(new / "clean.npy", np.float16, shape)
        tissues = new_array(new / "tissues.npy", np.uint8, (count, *grid))
        shares = new_array(new / "shares.npy", np.uint8, (count, TISSUES, *grid)) if recipe.soft else None
        for copy in range(recipe.copies):
            for start in range(0, len(rows), _BATCH):
                chunk = rows[start : start + _BATCH]
                at = copy * len(rows) + start
                images, maps = _moved(data, chunk, recipe, at if copy else None, device)
                here = slice(at, at + len(chunk))
                clean[here], tissues[here] = _fields(images, maps, codec, recipe)
                if shares is not None:
                    shares[here] = (tissue_shares(maps[:, 0], recipe.resolution) * 255).byte().cpu().numpy()
                meter.update(len(chunk))
        for kept in (clean, tissues, shares):
            if kept is not None:
                kept.flush()
        write_json(new / "fields.json", dict(identity))
    meter.close()


def _shape(recipe: FieldRecipe, cases: int, codec: Codec) -> tuple[int, ...]:
    """Of the clean fields: (N, R, R), or (N, C, R, R) of latents with several channels."""
    side, several = recipe.resolution, (codec.channels,) if codec.channels > 1 else ()
    return (recipe.copies * cases, *several, side, side)


def _moved(
    data: Prepared, chunk: NDArray[np.intp], recipe: FieldRecipe, moved_from: int | None, device: str
) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and tissues (N, 1, H, W) float32 of some cases, moved with the random streams from `moved_from` on.

    Images are moved before they are encoded: a moved latent is not the latent of the moved
    image, its speckle is smoothed.
    """
    images = torch.from_numpy(np.ascontiguousarray(data.images[chunk])).to(device)[:, None].float() / 255
    maps = torch.from_numpy(np.ascontiguousarray(data.tissues[chunk])).to(device)[:, None].float()
    if moved_from is None:
        return images, maps
    generators = [generator(recipe.seed, moved_from + i, Stream.FIELD_AUGMENTATION) for i in range(len(chunk))]
    return geometric(images, maps, torch.stack([draw_affine(g, recipe.ranges) for g in generators]))


@torch.no_grad()
def _fields(
    images: Tensor, maps: Tensor, codec: Codec, recipe: FieldRecipe
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Fields and tissues (N, R, R) of images and tissue maps (N, 1, H, W).

    Raises RunError for those that are no numbers, or far beyond 1.
    """
    small = F.interpolate(maps, size=(recipe.resolution, recipe.resolution), mode="nearest-exact")
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bf16):
        field = codec.encode(images, (maps > 0).float())
    largest = float(field.abs().max())
    if not math.isfinite(largest) or largest > _LARGEST:
        raise RunError(
            f"latents of the Γ-VAE reach {largest:.3g}, expected about 1: its training diverged (psnr_db in its history.csv); "
            "train it again, with another --seed or a lower --lr, or name another with --vae"
        )
    kept = field[:, 0] if codec.channels == 1 else field
    return kept.cpu().numpy().astype(np.float16), small[:, 0].byte().cpu().numpy()
