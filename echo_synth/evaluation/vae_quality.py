"""How good a VAE is on patients it was not trained on: reconstruction, latent, prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from echo_synth.data.prepared import Prepared
from echo_synth.data.resize import rescale_spacing
from echo_synth.errors import DataError
from echo_synth.metrics.speckle import speckle
from echo_synth.progress import track
from echo_synth.runs.folder import VaeRun
from echo_synth.vae.loss import reconstruct
from echo_synth.vae.network import GammaVAE

LATENT_BINS = np.linspace(-3, 4, 281)


@dataclass(frozen=True)
class VaeQuality:
    """Figures of one VAE, and what to draw.

    Attributes:
        numbers: named figures; see `measure`.
        latent_density: histogram of in-sector latents over `LATENT_BINS`.
        prior_density: the prior's density at the centres of `LATENT_BINS`.
        pictures: (K, 3, H, W) uint8: original, latent, reconstruction.
    """

    numbers: dict[str, float]
    latent_density: NDArray[np.float64]
    prior_density: NDArray[np.float64]
    pictures: NDArray[np.uint8]


def _ssim(a: NDArray[np.float32], b: NDArray[np.float32], sector: NDArray[np.bool_]) -> float:
    """Mean over the sector of the local structural similarity, Gaussian window of 1.5 px (Wang et al. 2004)."""
    _, local = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(local[sector].mean())


def _prior(vae: GammaVAE) -> Any:
    return stats.norm() if vae.family == "gaussian" else stats.gamma(vae.alpha_prior, scale=1 / vae.beta_prior)


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """Run folders by their names; by their whole paths where two names are the same."""
    names = [run.resolve().name for run in runs]
    return {name if names.count(name) == 1 else str(run): run for name, run in zip(names, runs, strict=True)}


def networks_of(runs: Mapping[str, VaeRun]) -> dict[str, GammaVAE]:
    """The networks of `runs`; of one whose decoder was finished also "NAME, as trained", before it."""
    networks = {}
    for name, run in runs.items():
        before = run.load_as_trained()
        if before is not None:
            networks[f"{name}, as trained"] = before
        networks[name] = run.load()
    return networks


@torch.no_grad()
def measure(vae: GammaVAE, data: Prepared, split: str, pictures: int = 4) -> VaeQuality:
    """Measure on one split's cases, image by image.

    Numbers (means over images, intensities in [0, 1], inside the sector): mae, psnr_db, ssim;
    grain_ratio, axial_ratio and lateral_ratio, amplitude and reach of the reconstruction's grain over
    the image's (see `metrics.speckle`);
    background_max, the largest value outside the sector; latent_r, Pearson's correlation of the
    latent (the mean of its channels) with the image averaged to its grid; latent_rmse of the same; latent_std; prior_ks,
    the Kolmogorov distance of all in-sector latents from the prior.

    Raises DataError when the split is empty.
    """
    rows = data.rows(split)
    if not len(rows):
        raise DataError(f"no case in split '{split}'")
    per_image: list[dict[str, float]] = []
    latents, shown = [], []
    show = set(np.linspace(0, len(rows) - 1, pictures).astype(int).tolist())
    for i, row in enumerate(track(rows, len(rows), "inspect", "images")):
        image = torch.from_numpy(np.array(data.images[row]))[None, None].float() / 255
        sector = torch.from_numpy(np.ascontiguousarray(data.tissues[row] > 0))[None, None].float()
        latent, drawn = vae.latent(image, sector), reconstruct(vae, image, sector)
        small, target = vae.latent_mask(sector) > 0, F.interpolate(image, size=latent.shape[-2:], mode="area")
        grey = latent.mean(1, keepdim=True)
        z, t = grey[small].numpy(), target[small].numpy()
        texture = _texture(image, drawn, sector, spacing_of(data, int(row)))
        per_image.append(_reconstruction(image, drawn, sector) | texture | _latent(z, t))
        latents.append(latent[small.expand_as(latent)].numpy())
        if i in show:
            enlarged = F.interpolate(grey, size=image.shape[-2:], mode="nearest").clamp(0, 1)
            shown.append((torch.cat([image, enlarged, drawn])[:, 0] * 255).round().byte().numpy())
    pooled = np.concatenate(latents)
    means = {k: float(np.mean([values[k] for values in per_image])) for k in per_image[0]}
    means["background_max"] = max(values["background_max"] for values in per_image)
    density = np.histogram(pooled, LATENT_BINS, density=True)[0]
    return VaeQuality(means | _pooled(pooled, vae), density, prior_density(vae), np.stack(shown))


def _reconstruction(image: Tensor, drawn: Tensor, sector: Tensor) -> dict[str, float]:
    """Errors of one image (1, 1, H, W) inside its sector, and its largest value outside."""
    a, b, inside = (x.numpy()[0, 0] for x in (image, drawn, sector > 0))
    error = (b - a)[inside]
    return {
        "mae": float(np.abs(error).mean()),
        "psnr_db": float(-10 * np.log10((error**2).mean())),
        "ssim": _ssim(a, b, inside),
        "background_max": float(b[~inside].max(initial=0)),
    }


def spacing_of(data: Prepared, row: int) -> tuple[float, float]:
    """Spacing of prepared image `row` in mm, (row, column), on the grid it was resized to."""
    case = data.cases.iloc[row]
    before = (float(case["spacing_row_mm"]), float(case["spacing_column_mm"]))
    return rescale_spacing(before, (int(case["rows"]), int(case["columns"])), data.images.shape[1:])


def _texture(image: Tensor, drawn: Tensor, sector: Tensor, spacing: tuple[float, float]) -> dict[str, float]:
    """Grain of a reconstruction (1, 1, H, W) over that of its image: amplitude, reach along depth and across."""
    inside = sector.numpy()[0, 0] > 0
    real, made = (speckle((x[0, 0] * 255).round().byte().numpy(), inside, spacing) for x in (image, drawn))
    return {
        "grain_ratio": made.grain / real.grain,
        "axial_ratio": made.axial_mm / real.axial_mm,
        "lateral_ratio": made.lateral_mm / real.lateral_mm,
    }


def _latent(z: NDArray[np.float32], target: NDArray[np.float32]) -> dict[str, float]:
    """In-sector latents (P,) of one image against the image averaged to their grid."""
    rmse = float(np.sqrt(((z - target) ** 2).mean()))
    return {"latent_r": float(np.corrcoef(z, target)[0, 1]), "latent_rmse": rmse}


def _pooled(latents: NDArray[np.float32], vae: GammaVAE) -> dict[str, float]:
    """All in-sector latents (P,) against the prior; a large number of them is thinned for the Kolmogorov distance."""
    thinned = latents[:: max(1, len(latents) // 200_000)]
    return {
        "latent_mean": float(latents.mean()),
        "latent_std": float(latents.std()),
        "latent_min": float(latents.min()),
        "latent_max": float(latents.max()),
        "prior_ks": float(stats.ks_1samp(thinned, _prior(vae).cdf).statistic),
    }


def prior_density(vae: GammaVAE) -> NDArray[np.float64]:
    """The prior's density at the centres of `LATENT_BINS`."""
    result: NDArray[np.float64] = _prior(vae).pdf((LATENT_BINS[1:] + LATENT_BINS[:-1]) / 2)
    return result
