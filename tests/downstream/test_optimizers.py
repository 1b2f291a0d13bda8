"""The trainers' optimisers: what each budget names, one rate for all, and checkpoints of another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunet_plugin.budgets import Budget, budgets
from nnunet_plugin.optimizers import Loading, build_optimizer, set_rate

STANDARD, FORMER = (budgets()[f"nnUNetTrainerEchoSynth_cpu{suffix}"] for suffix in ("", "_adam"))


def test_the_standard_is_muon_at_a_third_of_the_images() -> None:
    network = nn.Conv2d(4, 8, 3)
    assert type(build_optimizer(network.parameters(), STANDARD, "cpu")).__name__ == "Muon"
    assert type(build_optimizer(network.parameters(), FORMER, "cpu")).__name__ == "Adam"
    assert 3 * STANDARD.images == FORMER.images


def test_a_rate_of_0_moves_nothing() -> None:
    network = nn.Conv2d(4, 8, 3)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = build_optimizer(network.parameters(), STANDARD, "cpu")
    network(torch.ones(1, 4, 4, 4)).sum().backward()
    set_rate(optimizer, 0.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    set_rate(optimizer, 0.1)
    network(torch.ones(1, 4, 4, 4)).sum().backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def _trained(budget: Budget, rate: float | None = None) -> torch.optim.Optimizer:
    """After one step of a small network, at `rate`."""
    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    optimizer = build_optimizer(network.parameters(), budget, "cpu")
    network(torch.ones(1, 4)).sum().backward()
    if rate is not None:
        set_rate(optimizer, rate)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("finished", [False, True])
def test_a_checkpoint_brings_the_state_and_no_settings(finished: bool, tmp_path: Path) -> None:
    """A finished one too: nnU-Net's --c with more epochs goes on from it."""
    saved, optimizer = _trained(STANDARD, 1e-4), build_optimizer(nn.Linear(4, 4).parameters(), STANDARD, "cpu")
    content, own = saved.state_dict(), {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    content["param_groups"][0]["of another version"] = 1
    Loading(optimizer, tmp_path, finished).load_state_dict(content)
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == own
    kept = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
    assert torch.equal(kept[0]["momentum_buffer"], content["state"][0]["momentum_buffer"])
    assert torch.equal(kept[1]["exp_avg"], content["state"][1]["exp_avg"])


@pytest.mark.parametrize(("before", "now"), [(FORMER, STANDARD), (STANDARD, FORMER)])
def test_a_checkpoint_of_another_optimiser_is_named(before: Budget, now: Budget, tmp_path: Path) -> None:
    content, optimizer = _trained(before).state_dict(), build_optimizer(nn.Linear(4, 4).parameters(), now, "cpu")
    with pytest.raises(RuntimeError, match=rf"{tmp_path.name}: this training was begun with another optimiser"):
        Loading(optimizer, tmp_path, finished=False).load_state_dict(content)
    Loading(optimizer, tmp_path, finished=True).load_state_dict(content)  # to validate it
    assert not optimizer.state


@pytest.mark.parametrize("change", [{"optimizer": "mun"}, {"schedule": "linear"}, {"network": "large"}])
def test_a_budget_of_unknown_names_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=f"budgets.json: {next(iter(change))} is '{next(iter(change.values()))}', expected one of"
    ):
        replace(STANDARD, **change)  # type: ignore[arg-type]
