"""The trainers' optimisers: what each budget names, one rate for all, and checkpoints of another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nnunet_plugin.budgets import budgets
from nnunet_plugin.optimizers import build_optimizer, check_settings, set_rate

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


def test_a_checkpoint_of_the_former_optimiser_is_named(tmp_path: Path) -> None:
    network = nn.Linear(4, 4)
    each = (FORMER, STANDARD, STANDARD)
    saved, optimizer, same = (build_optimizer(network.parameters(), budget, "cpu") for budget in each)
    network(torch.ones(1, 4)).sum().backward()
    for one in (saved, same):
        one.step()
    settings = set(optimizer.param_groups[0])
    optimizer.load_state_dict(same.state_dict())
    check_settings(settings, optimizer, tmp_path)
    optimizer.load_state_dict(saved.state_dict())
    with pytest.raises(RuntimeError, match=rf"{tmp_path.name}: this training was begun with another optimiser"):
        check_settings(settings, optimizer, tmp_path)
