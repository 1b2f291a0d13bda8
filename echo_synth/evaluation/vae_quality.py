"""How good a VAE is on patients it was not trained on: reconstruction, latent, prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from skimage.metrics import structural_similarity
from torch.nn import functional as F

from echo_synth.data.prepared import Prepared
from echo_synth.errors import DataError
from echo_synth.progress import track
from echo_synth.vae.loss import reconstruct
from echo_synth.vae.network import GammaVAE

LATENT_BINS = np.linspace(-3, 4, 281)


@dataclass(frozen=True)
class VaeQuality:
    """Figures of one VAE, and what to draw.

    Attributes:
        numbers: named figures; see `measure`.
        latent_density: histogram of in-sector latents over `LATENT_BINS`.
        pictures: (K, 3, H, W) uint8: original, latent, reconstruction.
    """

    numbers: dict[str, float]
    latent_density: NDArray[np.float64]
    pictures: NDArray[np.uint8]


def _ssim(a: NDArray[np.float32], b: NDArray[np.float32], sector: NDArray[np.bool_]) -> float:
    """Mean over the sector of the local structural similarity, Gaussian window of 1.5 px (Wang et al. 2004)."""
    _, local = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(local[sector].mean())


def _prior(vae: GammaVAE) -> Any:
    return stats.norm() if vae.family == "gaussian" else stats.gamma(vae.alpha_prior, scale=1 / vae.beta_prior)


@torch.no_grad()
def measure(vae: GammaVAE, data: Prepared, split: str, pictures: int = 4) -> VaeQuality:
    """Measure on one split's cases, image by image.

    Numbers (means over images, intensities in [0, 1], inside the sector): mae, psnr_db, ssim;
    background_max, the largest value outside the sector; latent_r, Pearson's correlation of the
    latent with the image averaged to its grid; latent_rmse of the same; latent_std; prior_ks,
    the Kolmogorov distance of all in-sector latents from the prior.

    Raises DataError when the split is empty.
    """
    rows = data.rows(split)
    if not len(rows):
        raise DataError(f"no case in split '{split}'")
    found: dict[str, list[float]] = {}
    latents, shown = [], []
    show = set(np.linspace(0, len(rows) - 1, pictures).astype(int).tolist())
    for i, row in enumerate(track(rows, len(rows), "inspect", "images")):
        image = torch.from_numpy(np.array(data.images[row]))[None, None].float() / 255
        sector = torch.from_numpy(np.ascontiguousarray(data.tissues[row] > 0))[None, None].float()
        latent, drawn = vae.latent(image, sector), reconstruct(vae, image, sector)
        small, target = vae.latent_mask(sector) > 0, F.interpolate(image, size=latent.shape[-2:], mode="area")
        inside = (sector > 0).numpy()[0, 0]
        error = (drawn - image).numpy()[0, 0]
        z, t = latent[small].numpy(), target[small].numpy()
        values = {
            "mae": float(np.abs(error[inside]).mean()), "psnr_db": float(-10 * np.log10((error[inside] ** 2).mean())),
            "ssim": _ssim(image.numpy()[0, 0], drawn.numpy()[0, 0], inside),
            "background_max": float(drawn.numpy()[0, 0][~inside].max(initial=0)),
            "latent_r": float(np.corrcoef(z, t)[0, 1]), "latent_rmse": float(np.sqrt(((z - t) ** 2).mean())),
        }  # fmt: skip
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        latents.append(z)
        if i in show:
            enlarged = F.interpolate(latent, size=image.shape[-2:], mode="nearest").clamp(0, 1)
            shown.append((torch.cat([image, enlarged, drawn])[:, 0] * 255).round().byte().numpy())
    pooled = np.concatenate(latents)
    numbers = {k: float(np.max(v) if k == "background_max" else np.mean(v)) for k, v in found.items()}
    numbers |= {
        "latent_mean": float(pooled.mean()), "latent_std": float(pooled.std()),
        "latent_min": float(pooled.min()), "latent_max": float(pooled.max()),
        "prior_ks": float(stats.ks_1samp(pooled[:: max(1, len(pooled) // 200_000)], _prior(vae).cdf).statistic),
    }  # fmt: skip
    density = np.histogram(pooled, LATENT_BINS, density=True)[0]
    return VaeQuality(numbers, density, np.stack(shown))


def prior_density(vae: GammaVAE) -> NDArray[np.float64]:
    """The prior's density at the centres of `LATENT_BINS`."""
    result: NDArray[np.float64] = _prior(vae).pdf((LATENT_BINS[1:] + LATENT_BINS[:-1]) / 2)
    return result
