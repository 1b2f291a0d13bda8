"""The Γ prior of the latent, fitted to in-sector intensities; Gaussian and Rayleigh beside it.

Grey level v of 0..255 stands for the middle of its interval, x = (v + 0.5) / 256, so that black
pixels inside the sector have a likelihood too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from echo_synth.data.prepared import Prepared
from echo_synth.errors import DataError
from echo_synth.files import read_json

LARGEST = 1e6  # shape or rate of a prior; the paper's are 3.75 and 10.8
LEVELS: NDArray[np.float64] = (np.arange(256) + 0.5) / 256
# The grid the paper's values lie on; it names neither grid nor objective.
GRID_ALPHA: NDArray[np.float64] = np.arange(0.25, 10.01, 0.25)
GRID_BETA: NDArray[np.float64] = np.arange(0.4, 30.01, 0.4)

Counts = NDArray[np.int64]
METHODS = ("ml", "grid")


@dataclass(frozen=True)
class Fit:
    """One fitted density.

    Attributes:
        name: gamma, gaussian or rayleigh.
        parameters: gamma: alpha (shape), beta (rate); gaussian: mean, std; rayleigh: scale.
        log_likelihood: mean over pixels, nats.
        aic: Akaike's criterion per pixel, lower is better.
        ks: largest distance of the cumulative distributions, 0..1.
    """

    name: str
    parameters: dict[str, float]
    log_likelihood: float
    aic: float
    ks: float

    def density(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability density at x."""
        result: NDArray[np.float64] = _frozen(self.name, self.parameters).pdf(x)
        return result


def _frozen(name: str, p: dict[str, float]) -> Any:
    if name == "gamma":
        return stats.gamma(p["alpha"], scale=1 / p["beta"])
    if name == "gaussian":
        return stats.norm(p["mean"], p["std"])
    return stats.rayleigh(scale=p["scale"])


def in_sector_counts(images: Iterable[NDArray[np.uint8]], tissues: Iterable[NDArray[np.uint8]]) -> Counts:
    """Histogram (256,) of the grey levels where the tissue map is not 0.

    Raises DataError when no pixel lies inside a sector.
    """
    counts = np.zeros(256, np.int64)
    for image, tissue in zip(images, tissues, strict=True):
        counts += np.bincount(image[tissue > 0], minlength=256)
    if counts.sum() == 0:
        raise DataError("no pixel inside any sector; is this dataset converted from CAMUS?")
    return counts


def maximum_likelihood_gamma(counts: Counts) -> dict[str, float]:
    """Shape and rate that maximise the likelihood: ln α − ψ(α) = ln E[x] − E[ln x], β = α / E[x]."""
    mean = float(np.average(LEVELS, weights=counts))
    spread = np.log(mean) - float(np.average(np.log(LEVELS), weights=counts))
    if spread < 1e-9:
        raise DataError("all in-sector pixels have one grey level; a Γ prior cannot be fitted")
    alpha = float(optimize.brentq(lambda a: np.log(a) - special.digamma(a) - spread, 1e-3, 1e6))
    return {"alpha": alpha, "beta": alpha / mean}


def grid_search_gamma(counts: Counts) -> dict[str, float]:
    """Shape and rate on the grid whose density is nearest to the histogram (mean squared difference)."""
    observed = counts / counts.sum() * 256
    best, nearest = np.inf, (0.0, 0.0)
    for alpha in GRID_ALPHA:
        densities = stats.gamma.pdf(LEVELS, alpha, scale=1 / GRID_BETA[:, None])
        errors = ((densities - observed) ** 2).mean(axis=1)
        at = int(errors.argmin())
        if errors[at] < best:
            best, nearest = float(errors[at]), (float(alpha), float(GRID_BETA[at]))
    return {"alpha": round(nearest[0], 4), "beta": round(nearest[1], 4)}


def evaluate(name: str, parameters: dict[str, float], counts: Counts) -> Fit:
    """Likelihood and distance of a given density from the histogram."""
    frozen, weights = _frozen(name, parameters), counts / counts.sum()
    likelihood = float(np.average(frozen.logpdf(LEVELS), weights=weights))
    edges = np.arange(1, 257) / 256
    ks = float(np.abs(np.cumsum(weights) - frozen.cdf(edges)).max())
    aic = 2 * len(parameters) / float(counts.sum()) - 2 * likelihood
    return Fit(name, parameters, likelihood, aic, ks)


def fit_all(counts: Counts) -> list[Fit]:
    """Maximum-likelihood Γ, Gaussian and Rayleigh."""
    mean = float(np.average(LEVELS, weights=counts))
    second = float(np.average(LEVELS**2, weights=counts))
    gaussian = {"mean": mean, "std": float(np.sqrt(second - mean**2))}
    return [
        evaluate("gamma", maximum_likelihood_gamma(counts), counts),
        evaluate("gaussian", gaussian, counts),
        evaluate("rayleigh", {"scale": float(np.sqrt(second / 2))}, counts),
    ]


def summary(counts: Counts, dataset: str, method: str) -> dict[str, Any]:
    """gamma_prior.json: the chosen prior ("alpha", "beta"), every fit, the grid search, the paper's values."""
    fits, grid = fit_all(counts), grid_search_gamma(counts)
    chosen = fits[0].parameters if method == "ml" else grid
    return {
        **chosen,
        "method": method,
        "dataset": dataset,
        "pixels": int(counts.sum()),
        "maximum_likelihood": [asdict(f) for f in fits],
        "grid_search": asdict(evaluate("gamma", grid, counts)),
        "paper": asdict(evaluate("gamma", {"alpha": 3.75, "beta": 10.8}, counts)),
    }


def fit_dataset(data: Prepared, dataset: str, method: str) -> tuple[Counts, dict[str, Any]]:
    """Histogram (256,) of the training patients' in-sector grey levels, and the `summary` of its fits.

    Raises DataError when no pixel lies inside a sector.
    """
    rows = data.rows("train")
    counts = in_sector_counts((data.images[i] for i in rows), (data.tissues[i] for i in rows))
    return counts, summary(counts, dataset, method)


def read_prior(path: Path) -> tuple[float, float]:
    """Shape and rate of a gamma_prior.json, both in (0, `LARGEST`]. Raises DataError when it holds none."""
    data = read_json(path)
    values: dict[str, Any] = {name: data.get(name) for name in ("alpha", "beta")} if isinstance(data, dict) else {}
    for name, value in (values or {"alpha": None}).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{path}: expected numbers 'alpha' and 'beta', as fit-prior writes them")
        if not 0 < value <= LARGEST:
            raise DataError(f"{path}: {name} is {value:.6g}; expected a positive number of at most {LARGEST:g}")
    return float(values["alpha"]), float(values["beta"])
