"""Muon against an exact polar decomposition, and which parameters it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echo_synth.specs import TrainingSpec
from echo_synth.training.optimizers import adamw_rate, build_optimizer
from echo_synth.training.state import optimizer_tensors
from nnunet_plugin.muon import is_matrix
from nnunet_plugin.optimizers import set_rate

RATE = 0.01


def _spec(optimizer: str) -> TrainingSpec:
    return TrainingSpec(images=1, batch=1, optimizer=optimizer, lr=RATE, clip_norm=1, ema_std=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (16, 8, 3, 3)])
def test_a_first_step_of_muon_is_the_orthogonal_part_of_the_gradient(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator))
    before = weight.detach().clone()
    weight.grad = torch.randn(shape, generator=generator)
    left, _, right = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    build_optimizer([weight], _spec("muon")).step()
    step = (before - weight.detach()).flatten(1)
    exact = left @ right
    assert float((step * exact).sum() / step.norm() / exact.norm()) > 0.98
    # Adam's steps have a root mean square of 0.2 to 0.4 of the rate; that of an orthogonal matrix is 1 / sqrt(its longer side).
    assert float(step.pow(2).mean().sqrt()) == pytest.approx(0.2 * RATE, rel=0.15)


def test_several_steps_are_those_of_another_implementation() -> None:
    timm = pytest.importorskip("timm.optim.muon")
    shapes = [(16, 40), (40, 16), (40, 16), (16, 8, 3, 3), (8, 1, 3, 3), (3, 16), (4, 1024), (16,)]
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    mine = build_optimizer(ours, _spec("muon"))
    other = timm.Muon(theirs, lr=RATE, momentum=0.95, nesterov=True, betas=(0.9, 0.99))
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        kept = [a.grad.clone() for a in ours if a.grad is not None]
        mine.step()
        other.step()
        assert all(a.grad is not None and torch.equal(a.grad, g) for a, g in zip(ours, kept, strict=True))
    for shape, a, b in zip(shapes, ours, theirs, strict=True):
        off = (a - b).abs().max() / RATE  # theirs iterates in bf16
        assert off < (0.05 if is_matrix(a) else 1e-4), shape
        assert is_matrix(a) == (shape not in [(8, 1, 3, 3), (3, 16), (4, 1024), (16,)])


def _moved(rate: float) -> tuple[dict[str, torch.Tensor], dict[str, set[str]]]:
    """How far each parameter of a small network moves in a first step at `rate`, and what the optimiser keeps of it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8, 8))
    optimizer = build_optimizer(module.parameters(), _spec("muon"))
    set_rate(optimizer, rate)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    module(torch.ones(2, 4, 3, 3)).square().sum().backward()
    optimizer.step()
    moved = {name: before[name] - p.detach() for name, p in module.named_parameters()}
    kept = [name.split(".")[1:] for name in optimizer_tensors(optimizer)]
    return moved, {name: {key for i, key in kept if int(i) == k} for k, name in enumerate(moved)}


def test_muon_leaves_biases_and_norms_to_adam_and_all_move_at_one_rate() -> None:
    (moved, kept), (further, _) = _moved(0.001), _moved(0.01)
    for name, step in moved.items():
        assert kept[name] == ({"momentum_buffer"} if step.ndim > 1 else {"step", "exp_avg", "exp_avg_sq"}), name
        assert torch.allclose(further[name], 10 * step, rtol=0.01, atol=1e-4), name
        assert step.abs().max() > 0, name


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", RATE), ("muon", RATE / 4), ("sgd", 2e-4)])
def test_a_phase_of_adamw_takes_a_rate_of_its_own(optimizer: str, rate: float) -> None:
    assert adamw_rate(_spec(optimizer)) == rate
