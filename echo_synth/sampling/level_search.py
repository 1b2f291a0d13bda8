"""Noise levels of a few-step solver by coordinate search: what lowers a measured error, and nothing that raises it.

As Align Your Steps (Sabour et al. 2024) the levels belong to a model and a budget; the objective here is
the distance to the converged solution itself, which few steps make cheap to measure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Levels = tuple[float, ...]
_DIGITS = 4  # significant ones of a level: it is stored as it was measured
_FIRST_MOVE = 0.5  # of the distance to the neighbour, in ln σ
_LAST_MOVE = 0.06
ALL = -1  # in place of a level's number
_OUTER = 1.0  # that distance for the first and the last level, which have no neighbour outside


@dataclass(frozen=True)
class Found:
    """Levels, highest first, and their error."""

    levels: Levels
    error: float


def rounded(levels: Sequence[float]) -> Levels:
    """Levels with four significant digits."""
    return tuple(float(f"{v:.{_DIGITS}g}") for v in levels)


def falling(levels: Sequence[float]) -> bool:
    """Whether each level is below the one before and all are positive and finite."""
    return all(math.isfinite(v) and v > 0 for v in levels) and all(a > b for a, b in itertools.pairwise(levels))


def resampled(levels: Sequence[float], count: int) -> Levels:
    """`count` levels along the curve ln σ of `levels`, ends kept (AYS's way from few steps to more)."""
    if count == 1 or len(levels) == 1:
        return (levels[0],) * count
    logs = [math.log(v) for v in levels]
    places = [k * (len(levels) - 1) / (count - 1) for k in range(count)]
    return tuple(math.exp(_between(logs, place)) for place in places)


def _between(values: Sequence[float], place: float) -> float:
    low = min(int(place), len(values) - 2)
    return values[low] + (place - low) * (values[low + 1] - values[low])


def search(
    error: Callable[[Levels], float],
    starts: Sequence[Levels],
    bounds: tuple[float, float],
    measurements: int,
) -> Found:
    """The best levels found from the best of `starts`, one level moved at a time.

    A level moves in ln σ by a share of the way to its neighbour, and all of them together; a move that lowers
    the error is kept, and when none does, moves are halved. The error is never above that of any start.

    Args:
        error: of levels that fall; infinite where they are of no use.
        starts: each as many levels as the others.
        bounds: lowest and highest σ.
        measurements: of the error, at most, those of the starts included.
    """
    best = min((Found(rounded(s), error(rounded(s))) for s in starts), key=lambda f: f.error)
    left, share = measurements - len(starts), _FIRST_MOVE
    while share >= _LAST_MOVE and left > 0:
        before = best.error
        for i in (ALL, *range(len(best.levels))):
            best, spent = _move(error, best, i, share, bounds, left)
            left -= spent
        if best.error > before * (1 - 1e-3):
            share /= 2
    return best


def _move(
    error: Callable[[Levels], float], best: Found, i: int, share: float, bounds: tuple[float, float], left: int
) -> tuple[Found, int]:
    """Level `i`, or `ALL`, up, else down; the better levels, and how often the error was measured."""
    spent = 0
    for direction in (1, -1):
        levels = _moved(best.levels, i, direction * share, bounds)
        if spent >= left or not falling(levels) or levels == best.levels:
            continue
        found, spent = Found(levels, error(levels)), spent + 1
        if found.error < best.error:
            return found, spent
    return best, spent


def _moved(levels: Levels, i: int, share: float, bounds: tuple[float, float]) -> Levels:
    if i == ALL:
        return rounded([_within(v * math.exp(share), bounds) for v in levels])
    logs = [math.log(v) for v in levels]
    if share > 0:
        gap = logs[i - 1] - logs[i] if i else _OUTER
    else:
        gap = logs[i] - logs[i + 1] if i + 1 < len(logs) else _OUTER
    return rounded([*levels[:i], _within(math.exp(logs[i] + share * gap), bounds), *levels[i + 1 :]])


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
