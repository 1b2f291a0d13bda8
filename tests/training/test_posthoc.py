"""Averages chosen afterwards: the combination is the average that training would have kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from echo_synth.errors import RunError
from echo_synth.runs.tensors import save_tensors
from echo_synth.training.ema import PowerEma, gamma_of_std
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


WIDTHS = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25]  # what average-weights takes


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16, 64])
def test_the_weights_of_every_width_sum_to_one(count: int) -> None:
    steps = [100 * (i + 1) for i in range(count)] * len(STDS)
    stds = np.repeat(STDS, count).tolist()
    for std in WIDTHS:
        assert np.sum(combination(steps, stds, 100 * count, std)) == pytest.approx(1, abs=1e-9)


def _write_snapshots(folder: Path, value: float, steps: int = 40) -> nn.Module:
    module = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    snapshots = Snapshots(module, folder, 8, steps)
    for step in range(1, steps + 1):
        snapshots.update(step, write=True)
    return module


@pytest.mark.parametrize("std", WIDTHS)
def test_weights_that_never_change_are_their_own_average(std: float, tmp_path: Path) -> None:
    module = _write_snapshots(tmp_path, 0.625)
    averaged, _ = average_of(tmp_path, std)
    for name, value in module.named_parameters():
        assert torch.allclose(averaged[name], value, rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [4, 10])
def test_no_other_weights_that_sum_to_one_are_nearer(count: int) -> None:
    """The profile's distance grows in every direction that keeps the sum, by numerical integration on [0, 1]."""
    t = (np.arange(20_000) + 0.5) / 20_000
    steps, stds = np.tile(np.arange(1, count + 1) / count, 2), np.repeat(STDS, count)

    def profile(end: float, std: float) -> np.ndarray:
        power = gamma_of_std(std)
        return np.where(t <= end, (power + 1) * t**power / end ** (power + 1), 0.0)

    profiles, target = np.stack([profile(e, s) for e, s in zip(steps, stds, strict=True)]), profile(1.0, 0.07)
    weights = combination((steps * 1000).astype(int).tolist(), stds.tolist(), 1000, 0.07)

    def distance(w: np.ndarray) -> float:
        return float(((w @ profiles - target) ** 2).mean())

    rng = np.random.default_rng(0)
    for _ in range(20):
        direction = rng.standard_normal(2 * count)
        direction -= direction.mean()
        assert distance(weights) <= distance(weights + 1e-3 * direction) + 1e-9


def test_snapshots_that_are_not_finite_or_of_another_network_are_refused(tmp_path: Path) -> None:
    _write_snapshots(tmp_path, 1.0)
    first = min((tmp_path / "averages").glob("*.safetensors"))
    save_tensors(first, {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})
    with pytest.raises(RunError, match="not of the same network"):
        average_of(tmp_path, 0.1)
    save_tensors(first, {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)})
    with pytest.raises(RunError, match="weight holds values that are not finite"):
        average_of(tmp_path, 0.1)
    first.rename(first.with_name("notes.safetensors"))
    average_of(tmp_path, 0.1)  # files of other names are not snapshots


def test_a_run_without_snapshots_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="train with --snapshots"):
        average_of(tmp_path, 0.1)


def test_names_without_a_step_or_a_width_are_no_snapshots(tmp_path: Path) -> None:
    _write_snapshots(tmp_path, 1.0)
    before = average_of(tmp_path, 0.1)
    for name in ("000000000_0.050", "000000008_0.000", "000000٣٢_0.050"):
        save_tensors(tmp_path / "averages" / f"{name}.safetensors", {"weight": torch.zeros(2, 3)})
    after = average_of(tmp_path, 0.1)
    assert after[1] == before[1]
    assert all(torch.equal(after[0][name], value) for name, value in before[0].items())
