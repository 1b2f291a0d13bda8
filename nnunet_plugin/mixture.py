"""Shares of several source datasets in one training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_REPEATS = 200  # of one case in the list that training draws from


def repeated_cases(cases: Sequence[str], sources: Mapping[str, Any], shares: Mapping[str, float]) -> list[str]:
    """`cases`, each as often as makes uniform draws from the list hit every source dataset with its share.

    Whole numbers of repeats come within a hundredth of the shares, or as near as 200 repeats can.

    Args:
        sources: dataset.json's "dataset": case to its image files, whose path names the source.
        shares: by source dataset, adding up to 1.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        path = str(sources[case]["images"][0]).replace("\\", "/")
        members[next(part for part in reversed(path.split("/")) if part in shares)].append(case)
    weight = {s: shares[s] / len(m) for s, m in members.items() if shares[s] > 0}
    best, error = dict.fromkeys(weight, 1), math.inf
    for scale in range(1, _MOST_REPEATS + 1):
        tried = {s: max(1, round(scale * w / min(weight.values()))) for s, w in weight.items()}
        if max(tried.values()) > _MOST_REPEATS and math.isfinite(error):
            break
        total = sum(n * len(members[s]) for s, n in tried.items())
        off = max(
            abs(n * len(members[s]) / total - shares[s] / sum(shares[k] for k in weight)) for s, n in tried.items()
        )
        if off < error:
            best, error = tried, off
        if error < 0.005:
            break
    return [case for source, n in best.items() for case in members[source] * n]
