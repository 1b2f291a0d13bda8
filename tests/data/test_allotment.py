"""Maps a patient: their sum is what was asked for, and rare ejection fractions get more."""

from __future__ import annotations

import math

from echo_synth.data.allotment import allot
from echo_synth.specs import EfBalance

_BALANCE = EfBalance(class_width=10.0, most=2.0)
_FRACTIONS = {f"patient{i:04d}": ef for i, ef in enumerate([55.0] * 12 + [45.0] * 6 + [25.0] * 2)}


def test_without_balance_all_get_the_same() -> None:
    assert set(allot(_FRACTIONS, 5, None).values()) == {5}


def test_the_sum_is_kept_and_the_limits_hold() -> None:
    for repeats in (1, 2, 3, 5, 7):
        given = allot(_FRACTIONS, repeats, _BALANCE)
        assert sum(given.values()) == repeats * len(_FRACTIONS)
        assert min(given.values()) >= 1
        assert max(given.values()) <= 2 * repeats


def test_rare_fractions_get_more_and_a_class_is_treated_alike() -> None:
    given = allot(_FRACTIONS, 5, _BALANCE)
    of = {ef: [given[p] for p, e in _FRACTIONS.items() if e == ef] for ef in (25.0, 45.0, 55.0)}
    assert of[25.0] == [10, 10]
    assert min(of[45.0]) > max(of[55.0])
    assert all(max(v) - min(v) <= 1 for v in of.values())
    assert allot(_FRACTIONS, 1, _BALANCE) == dict.fromkeys(_FRACTIONS, 1)


def test_order_decides_nothing_and_unknown_fractions_are_average() -> None:
    backwards = dict(reversed(_FRACTIONS.items()))
    assert allot(backwards, 5, _BALANCE) == allot(_FRACTIONS, 5, _BALANCE)
    with_unknown = allot({**_FRACTIONS, "patient0099": math.nan}, 5, _BALANCE)
    assert with_unknown["patient0099"] in (4, 5, 6)
    assert set(allot(dict.fromkeys("abc", math.nan), 4, _BALANCE).values()) == {4}
