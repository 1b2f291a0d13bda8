"""How many trainings a table says that it is of."""

from __future__ import annotations

import pytest

from echo_synth.report.tables import how_many_trainings


@pytest.mark.parametrize(
    ("trainings", "generators", "segmenters", "expected"),
    [
        (1, 1, 1, "One training: the intervals know patients alone"),
        (3, 3, 3, "Mean of 3 trainings (each independent of the others); "),  # real data has no generator
        (6, 2, 3, "Mean of 6 trainings (2 generator and 3 segmenter seeds); "),
        (2, 1, 2, "Mean of 2 trainings (1 generator and 2 segmenter seeds); "),
    ],
)
def test_trainings_are_counted_in_words(trainings: int, generators: int, segmenters: int, expected: str) -> None:
    entry = {"folders": ["a"] * trainings, "generator_seeds": generators, "segmenter_seeds": segmenters}
    assert how_many_trainings(entry).startswith(expected)


def test_nothing_is_said_where_it_is_not_known() -> None:
    assert how_many_trainings(None) == ""
