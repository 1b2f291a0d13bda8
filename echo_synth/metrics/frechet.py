"""Distances between two sets of features: Fréchet (Heusel 2017) and kernel (KID, Bińkowski 2018).

What the numbers mean depends on the network that gives the features; callers name it wherever they show them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


def frechet_distance(a: Features, b: Features) -> float:
    """|μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½) of the Gaussians fitted to features (N, D) and (M, D).

    Biased upwards for few samples: compare only values with the same numbers of images.
    """
    difference = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False, ddof=1), np.cov(b, rowvar=False, ddof=1)
    root = _square_root(np.atleast_2d(first))
    # (C₁ C₂)^½ has the eigenvalues of the symmetric (C₁^½ C₂ C₁^½)^½.
    eigenvalues = np.linalg.eigvalsh(root @ np.atleast_2d(second) @ root)
    crossed = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(
        difference @ difference + np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)) - 2 * crossed
    )


def _square_root(matrix: Features) -> Features:
    values, vectors = np.linalg.eigh(matrix)
    root: Features = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def kernel_distance(
    a: Features, b: Features, subsets: int = 100, size: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, mean and standard deviation over random subsets.

    Args:
        a, b: features (N, D) and (M, D); `size` is reduced to what both have.
    """
    size = min(size, len(a), len(b))
    rng = np.random.default_rng(seed)
    distances = [
        _mmd(a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _mmd(x: Features, y: Features) -> float:
    n = len(x)

    def kernel(p: Features, q: Features) -> Features:
        k: Features = (p @ q.T / p.shape[1] + 1) ** 3
        return k

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * xy.mean())
