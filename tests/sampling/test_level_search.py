"""Searched noise levels: never worse than the starts, and near the truth where that is known."""

from __future__ import annotations

import math

import pytest
import torch

from echo_synth.sampling import sample
from echo_synth.sampling.level_search import Levels, falling, resampled, rounded, search
from tests.analytic import mixture_denoiser


def _noise(seed: int) -> torch.Tensor:
    return torch.randn(64, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _error(solver: str, nfe: int, seed: int) -> object:
    noise = _noise(seed)
    truth = sample(mixture_denoiser(), noise, nfe=401, solver="heun")

    def error(levels: Levels) -> float:
        drawn = sample(mixture_denoiser(), noise, nfe=nfe, solver=solver, sigmas=levels)
        return float((drawn - truth).pow(2).mean().sqrt())

    return error


@pytest.mark.parametrize(("solver", "nfe"), [("euler", 4), ("heun", 5), ("dpmpp-2m", 4), ("unipc", 4)])
def test_levels_found_on_some_noise_are_nearer_on_other(solver: str, nfe: int) -> None:
    """To the converged solution of a mixture of two Gaussians, whose denoiser is exact."""
    steps = nfe // 2 + 1 if solver == "heun" else nfe
    start = rounded([80 ** (1 - k / (steps - 1)) * 0.002 ** (k / (steps - 1)) for k in range(steps)])
    on_some, on_other = _error(solver, nfe, 0), _error(solver, nfe, 1)
    found = search(on_some, [start], (0.002, 80.0), 80)  # type: ignore[arg-type]
    assert found.error == on_some(found.levels)  # type: ignore[operator]
    assert on_other(found.levels) < 0.8 * on_other(start)  # type: ignore[operator]


def test_a_single_level_is_found_where_its_error_is_least() -> None:
    found = search(lambda levels: abs(math.log(levels[0] / 3.0)), [(80.0,)], (0.002, 80.0), 60)
    assert found.levels[0] == pytest.approx(3.0, rel=0.05)


def test_measurements_are_bounded_and_levels_stay_within_the_range() -> None:
    seen: list[Levels] = []

    def error(levels: Levels) -> float:
        seen.append(levels)
        return sum((math.log(v) - 9) ** 2 for v in levels)  # wants levels above the range

    found = search(error, [(20.0, 1.0, 0.1), (80.0, 2.0, 0.01)], (0.002, 80.0), 25)
    assert len(seen) <= 25
    assert all(falling(levels) and levels[-1] >= 0.002 and levels[0] <= 80 for levels in seen)
    assert found.error == min(error(levels) for levels in seen[:25])


def test_more_levels_follow_the_curve_of_fewer() -> None:
    assert resampled((8.0, 2.0, 0.5), 5) == pytest.approx((8.0, 4.0, 2.0, 1.0, 0.5))
    assert resampled((8.0,), 1) == (8.0,)


@pytest.mark.parametrize("sigmas", [(80.0, 1.0), (80.0, 1.0, 1.0), (1.0, 2.0, 0.1), (3.0, 1.0, 0.0)])
def test_levels_that_do_not_fit_the_steps_are_refused(sigmas: Levels) -> None:
    with pytest.raises(ValueError, match="expected 3 positive numbers, each below the one before"):
        sample(mixture_denoiser(), _noise(0), nfe=3, solver="euler", sigmas=sigmas)


def test_the_formulations_own_levels_given_by_hand_change_nothing() -> None:
    from echo_synth.sampling.schedules import noise_levels

    own = noise_levels("edm", 6, 0.002, 80.0, 7.0).tolist()
    one, two = (sample(mixture_denoiser(), _noise(0), nfe=6, solver="unipc", sigmas=s) for s in (None, own))
    assert torch.equal(one, two)
