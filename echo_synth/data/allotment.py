"""How many maps each patient gets, so that rare ejection fractions are drawn as often as common ones."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping

from echo_synth.specs import EfBalance


def allot(fractions: Mapping[str, float], repeats: int, balance: EfBalance | None) -> dict[str, int]:
    """Maps a mask by patient; their sum is `repeats` times the patients, and everybody gets at least one.

    Each class of EF gets the same number as far as the limits allow; within a class, all patients alike.
    A patient whose EF is not known (NaN) counts as one of a class of average size. Seats are given one by
    one to the highest claim by seats held (Webster's method), ties by name: nothing here is random.

    Args:
        fractions: EF by patient, %.
    """
    if balance is None:
        return dict.fromkeys(fractions, repeats)
    known = {p: math.floor(ef / balance.class_width) for p, ef in fractions.items() if not math.isnan(ef)}
    sizes = Counter(known.values())
    average = len(known) / max(1, len(sizes))
    claims = {p: average / sizes[known[p]] if p in known else 1.0 for p in fractions}
    most = max(1, math.floor(balance.most * repeats))
    given = dict.fromkeys(fractions, 1)
    heap = [(-claims[p] / 3, p) for p in sorted(fractions)]  # the second seat's divisor
    heapq.heapify(heap)
    for _ in range((repeats - 1) * len(fractions)):
        _, patient = heapq.heappop(heap)
        given[patient] += 1
        if given[patient] < most:
            heapq.heappush(heap, (-claims[patient] / (2 * given[patient] + 1), patient))
    return given
