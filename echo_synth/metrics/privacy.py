"""Is an image a copy of a training image? Nearest neighbours in two spaces, and calibrated thresholds.

Similarity is a correlation: 1 for the same image, whatever its gain and brightness. In pixels it is the largest
over mirroring, small rotations, scales and shifts (`CopySearch`): a generator that is trained on images augmented in
these ways can reproduce a training image changed in these ways.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

_COARSE, _FINE = 32, 64  # sides of the grids of the search and of its refinement
_COMPONENTS = 96  # of the coarse images that the search compares
_CANDIDATES = 6  # references that are refined, an image
_CHUNK = 64  # images at once
_ROTATIONS = (-10.0, -5.0, 0.0, 5.0, 10.0)  # degrees
_SCALES = (0.9, 1.0, 1.1)
_LAGS = tuple(itertools.product(range(-2, 3), repeat=2))  # shifts in pixels of the coarse grid: 6 % of the side
_STEPS = (2.5, 0.05, 0.03, 0.03)  # of the refinement: degrees, log scale, shares of the side; halved each round
_ROUNDS = 3
_LAST_ROUNDS = 3  # for the best candidate alone


@dataclass(frozen=True)
class Neighbours:
    """Nearest of the references to each image: position (N,) and similarity (N,) in [−1, 1]."""

    index: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True)
class MovedNeighbours(Neighbours):
    """`Neighbours`, and how each reference is moved to match the image, each (N,).

    Attributes:
        mirrored: bool, before everything else.
        rotation: degrees, anticlockwise as the image is shown.
        scale: above 1 it is enlarged.
    """

    mirrored: NDArray[np.bool_]
    rotation: NDArray[np.float64]
    scale: NDArray[np.float64]


class CopySearch:
    """Finds the nearest reference in pixels, allowing for mirroring, rotation, scale, shift and brightness.

    References are searched on a coarse grid in their principal components, at every combination of a few
    rotations, scales, shifts and mirroring; the best few are then fitted on a finer grid. Prepared once, it serves
    any number of images: 200 against 1400 references take about as long as the preparation.

    Args:
        references: (M, H, W) grey levels, 0 outside the sector.
    """

    def __init__(self, references: NDArray[np.generic]) -> None:
        self._fine = _standard(_resized(references, _FINE))
        coarse = _standard(_resized(references, _COARSE))
        moves = [(m, r, s) for m in (0.0, 1.0) for r in _ROTATIONS for s in _SCALES]
        self._moves = torch.tensor([[m, r, math.log(s), 0.0, 0.0] for m, r, s in moves])
        moved = torch.stack([_unit(_moved(coarse, move.expand(len(coarse), 5))) for move in self._moves])
        vectors = moved.flatten(0, 1).flatten(1)  # (moves x M, pixels), references side by side in each move
        self._basis = _principal_components(vectors)
        self._projected = vectors @ self._basis

    def nearest(self, images: NDArray[np.generic]) -> MovedNeighbours:
        """The nearest reference of each image (N, H, W), grey levels with 0 outside the sector."""
        parts = [self._some(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
        index, similarity, move = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return MovedNeighbours(
            index=index.astype(np.int64),
            similarity=similarity.astype(np.float64).clip(-1, 1),
            mirrored=move[:, 0] > 0.5,
            rotation=move[:, 1].astype(np.float64),
            scale=np.exp(move[:, 2].astype(np.float64)),
        )

    def _some(self, images: NDArray[np.generic]) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (n,), similarities (n,) and moves (n, 5) for a few images."""
        candidates, moves = self._candidates(_standard(_resized(images, _COARSE)))
        targets = _standard(_resized(images, _FINE))
        n, count = candidates.shape
        repeated = targets.repeat_interleave(count, 0)
        moves, scores = self._refined(repeated, candidates.flatten(), moves.flatten(0, 1), _STEPS, _ROUNDS)
        best = scores.view(n, count).argmax(1)
        rows = torch.arange(n)
        index, move = candidates[rows, best], moves.view(n, count, 5)[rows, best]
        smaller = tuple(step / 2**_ROUNDS for step in _STEPS)
        move, score = self._refined(targets, index, move, smaller, _LAST_ROUNDS)
        return index, score, move

    def _candidates(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """The references most like each of (n, S, S), by position (n, C), and the moves (n, C, 5) that make them so."""
        best = torch.full((len(coarse), len(self._projected)), -torch.inf)
        lag = torch.zeros(best.shape, dtype=torch.uint8)
        for i, (down, right) in enumerate(_LAGS):
            scores = coarse.roll((-down, -right), (1, 2)).flatten(1) @ self._basis @ self._projected.T
            better = scores > best
            best, lag = torch.where(better, scores, best), lag.masked_fill(better, i)
        by_move = best.view(len(coarse), len(self._moves), -1)
        score, which = by_move.max(1)
        index = score.topk(min(_CANDIDATES, score.shape[1]), dim=1).indices
        which = which.gather(1, index)
        rows = torch.arange(len(coarse))[:, None]
        chosen = lag.view(by_move.shape)[rows, which, index].long()
        moves = self._moves[which].clone()
        moves[..., 3:] = torch.tensor(_LAGS, dtype=torch.float32)[chosen] / coarse.shape[-1]
        return index, moves

    def _refined(
        self, targets: Tensor, index: Tensor, moves: Tensor, steps: tuple[float, ...], rounds: int
    ) -> tuple[Tensor, Tensor]:
        """Moves (n, 5) improved one number after the other, and the similarities (n,) of references (n,) so moved."""
        references = self._fine[index]

        def score(tried: Tensor) -> Tensor:
            return (_unit(_moved(references, tried)) * targets).sum((1, 2))

        best = score(moves)
        for halvings in range(rounds):
            for k, step in enumerate(steps, start=1):
                for sign in (-1, 1):
                    tried = moves.clone()
                    tried[:, k] += sign * step / 2**halvings
                    scores = score(tried)
                    better = scores > best
                    moves, best = torch.where(better[:, None], tried, moves), torch.where(better, scores, best)
        return moves, best


def pixel_neighbours(images: NDArray[np.generic], references: NDArray[np.generic]) -> MovedNeighbours:
    """`CopySearch(references).nearest(images)`, for one set of images: (N, H, W) and (M, H, W)."""
    return CopySearch(references).nearest(images)


def move_images(
    images: NDArray[np.uint8],
    mirrored: bool = False,
    rotation: float | NDArray[np.float64] = 0.0,
    scale: float | NDArray[np.float64] = 1.0,
    down: float | NDArray[np.float64] = 0.0,
    right: float | NDArray[np.float64] = 0.0,
) -> NDArray[np.uint8]:
    """Images (N, H, H) uint8 moved, with 0 where nothing comes from; numbers for all, or (N,) of each.

    Args:
        rotation: degrees, anticlockwise as the image is shown.
        scale: above 1 it is enlarged.
        down, right: shares of the side.
    """
    columns = (float(mirrored), rotation, np.log(scale), down, right)
    moves = np.stack([np.broadcast_to(np.asarray(c, np.float32), len(images)) for c in columns], 1)
    moved = _moved(torch.from_numpy(np.ascontiguousarray(images, np.float32)), torch.from_numpy(moves))
    return moved.round().clamp(0, 255).numpy().astype(np.uint8)


def _resized(images: NDArray[np.generic], side: int) -> Tensor:
    """Images (N, H, W) on a grid of side x side, float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]
    return F.interpolate(tensor, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[:, 0]


def _standard(images: Tensor) -> Tensor:
    """Each image (N, S, S) with in-sector mean 0, nothing outside, sum of squares 1: products are correlations.

    With the outside left in, all fans of one shape would look alike.
    """
    inside = images > 0.5
    mean = (images * inside).sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True).clamp(min=1)
    return _unit(torch.where(inside, images - mean, torch.zeros(())))


def _unit(images: Tensor) -> Tensor:
    return images / images.flatten(1).norm(dim=1).clamp(min=1e-6)[:, None, None]


def _moved(images: Tensor, moves: Tensor) -> Tensor:
    """Images (N, S, S) mirrored, turned, scaled and shifted by `moves` (N, 5), with zeros where nothing comes from.

    A move is: 1 for mirrored or 0, degrees anticlockwise, log of the scale, shares of the side down and to the right.
    """
    mirrored, angle, log_scale, down, right = moves.unbind(1)
    cos, sin = (f(torch.deg2rad(angle)) * torch.exp(-log_scale) for f in (torch.cos, torch.sin))
    flip = 1 - 2 * mirrored
    # From a place in the result to the place it comes from; coordinates run from -1 to 1, rows downwards.
    inverse = torch.stack([torch.stack([flip * cos, -flip * sin], 1), torch.stack([sin, cos], 1)], 1)
    shift = 2 * torch.stack([right, down], 1)[:, :, None]
    grid = F.affine_grid(torch.cat([inverse, -inverse @ shift], 2), [len(images), 1, *images.shape[1:]], False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def _principal_components(vectors: Tensor) -> Tensor:
    """The `_COMPONENTS` directions (P, K) that hold most of the vectors (N, P), from some thousand of them."""
    some = vectors[:: max(1, len(vectors) // 4000)].double()
    _, directions = torch.linalg.eigh(some.T @ some)
    return directions[:, -_COMPONENTS:].float()


def embedding_neighbours(features: NDArray[np.floating], references: NDArray[np.floating]) -> Neighbours:
    """Nearest by the cosine of features (N, D) to features (M, D), both centred on the references' mean."""
    centre = references.mean(0)

    def unit(x: NDArray[np.floating]) -> NDArray[np.float64]:
        moved = np.asarray(x - centre, np.float64)
        return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12))

    cosines = unit(features) @ unit(references).T
    index = cosines.argmax(1)
    return Neighbours(index.astype(np.int64), cosines[np.arange(len(index)), index])


def threshold(similarity: NDArray[np.floating], rate: float) -> float:
    """Similarity that a share `rate` of unseen images, exchangeable with these (N,), exceeds at most (conformal).

    +inf when N is too small for that rate.
    """
    rank = math.ceil((len(similarity) + 1) * (1 - rate))
    return float(np.sort(similarity)[rank - 1]) if rank <= len(similarity) else float("inf")


def threshold_interval(
    similarity: NDArray[np.floating], patients: NDArray[np.str_], rate: float, repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of `threshold` over resampled patients: images of one patient are not independent.

    Args:
        similarity, patients: of N unseen images.
    """
    groups = [similarity[patients == p] for p in np.unique(patients)]
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(groups), (repeats, len(groups)))
    # Quantiles that are values of the sample: between +inf and a number there is none.
    values = np.sort([threshold(np.concatenate([groups[i] for i in draw]), rate) for draw in draws])
    return float(values[int(0.025 * repeats)]), float(values[math.ceil(0.975 * repeats) - 1])


def share_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share `count` / `total`."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return low, high
