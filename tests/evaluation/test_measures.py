"""Numbers that commands show or advise, on inputs with known answers."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from echo_synth.errors import DataError
from echo_synth.evaluation.dataset_quality_results import check_inputs
from echo_synth.evaluation.solver_study import _distance, summary_of


@pytest.mark.parametrize("channels", [1, 4])
def test_the_distance_of_fields_is_that_of_a_value_whatever_the_channels(channels: int) -> None:
    truth, inside = torch.zeros(2, channels, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    inside[:, :, :4] = True
    field = torch.where(inside, 0.1, 5.0).expand_as(truth)
    found = _distance(field, truth, inside)
    assert found == pytest.approx([0.1, 0.1], abs=1e-7)
    assert summary_of(found)[3] == pytest.approx(20 * np.log10(2 / 0.1), abs=1e-4)


@pytest.mark.parametrize("classifier", [None, "a run"])
@pytest.mark.parametrize("images", [4, 8, 11, 70, 200])
def test_the_rate_that_is_advised_is_enough(images: int, classifier: str | None) -> None:
    cases = pd.DataFrame({"split": ["train", "test", *["val"] * images]})
    inputs = SimpleNamespace(real=SimpleNamespace(name="D", cases=lambda: cases), classifier=classifier, rate=0.001)
    with pytest.raises(DataError, match=f"{images} validation images cannot set such a threshold") as refused:
        check_inputs(inputs)  # type: ignore[arg-type]
    advised = re.search(r"use (\S+) or more", str(refused.value))
    assert advised
    inputs.rate = float(advised[1])
    check_inputs(inputs)  # type: ignore[arg-type]
    inputs.rate -= 0.001
    with pytest.raises(DataError, match="use"):
        check_inputs(inputs)  # type: ignore[arg-type]
