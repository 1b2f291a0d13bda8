"""Averages chosen afterwards: the combination is the average that training would have kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from echo_synth.errors import RunError
from echo_synth.training.ema import PowerEma
from echo_synth.training.posthoc import STDS, Snapshots, average_of, combination


@pytest.mark.parametrize("std", [0.04, 0.07, 0.10, 0.15])
def test_it_reconstructs_an_average_that_ran_along(std: float, tmp_path: Path) -> None:
    steps, generator = 800, torch.Generator().manual_seed(0)
    module = nn.Linear(64, 1, bias=False)
    truth, snapshots = PowerEma(module.parameters(), std), Snapshots(module, tmp_path, 10, steps)
    walk = torch.zeros(64)
    for step in range(1, steps + 1):
        walk = walk + 0.05 * torch.randn(64, generator=generator)
        with torch.no_grad():
            module.weight.copy_((walk + torch.randn(64, generator=generator))[None])
        truth.update(module.parameters(), step)
        snapshots.update(step, write=True)
    averaged, step = average_of(tmp_path, std)
    error = (averaged["weight"] - truth.average[0]).norm() / truth.average[0].norm()
    nearest = min((t.average[0] - truth.average[0]).norm() for t in snapshots.tracks) / truth.average[0].norm()
    assert step == steps
    assert error < max(0.03, 0.5 * float(nearest) if std not in STDS else 0.03)


def test_the_profile_weights_add_up_to_one() -> None:
    steps = [100 * (i + 1) for i in range(8)] * 2
    weights = combination(steps, [0.05] * 8 + [0.10] * 8, 800, 0.08)
    assert np.sum(weights) == pytest.approx(1, abs=1e-2)


def test_a_run_without_snapshots_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="train with --snapshots"):
        average_of(tmp_path, 0.1)
