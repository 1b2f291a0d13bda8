"""Muon: weight matrices move by the orthogonal part of their momentum (Jordan et al. 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# (a, b, c) of X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X, an iteration each; five bring singular values of 1e-3 to 1 near 1
# (modded-nanogpt; timm's "quintic").
_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
_EPS = 1e-7
_RMS = 0.2  # of a step over the rate, as Adam's (Liu et al. 2025)
_LEAST_SIDE, _MOST_ASPECT = 4, 128  # of a matrix; narrower ones move by NAdam


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for matrices and convolutions, NAdam for biases, the scales of norms, and what has one channel.

    Ours, because timm's and torch's iterate in bf16 on every device: without AVX512-BF16 a step takes ten times as long as in
    float32 (docs/RESULTS.md). Matrices of equal shape are iterated together. All parameters take the rate of their group. No weight decay.

    Args:
        parameters: to optimise; convolutions (O, I, …) count as matrices (O, I · …).
        lr: rate; the root mean square of a matrix' step is a fifth of it.
        momentum: of matrices.
        betas: of NAdam.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters that have a gradient, which stays as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in moving if is_matrix(p)]
            _step_matrices(matrices, [self._matrix_state(p) for p in matrices], group)
            for p in moving:
                if not is_matrix(p):
                    _step_by_nadam(p, self._nadam_state(p), group)
        return loss

    def _matrix_state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state

    def _nadam_state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return state


def is_matrix(p: Tensor) -> bool:
    """Whether a parameter moves by Muon: both sides of its matrix at least 4 long, neither 128 times the other, several channels."""
    if p.ndim < 2 or 1 in p.shape[:2]:
        return False
    short, long = sorted((p.shape[0], p[0].numel()))
    return short >= _LEAST_SIDE and long <= _MOST_ASPECT * short


def orthogonal(matrices: Tensor) -> Tensor:
    """U Vᵀ of matrices U S Vᵀ, (N, m, n), nearly: singular values end between 0.7 and 1.2 unless they are tiny.

    By five Newton-Schulz iterations, in bf16 on a GPU and in float32 on a CPU.
    """
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    turned = x.shape[-2] > x.shape[-1]
    x = x.mT if turned else x
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(_EPS)).contiguous()
    for a, b, c in _COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if turned else x


def _step_matrices(matrices: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> None:
    if not matrices:
        return
    gradients = [p.grad for p in matrices if p.grad is not None]
    momenta = [state["momentum_buffer"] for state in states]
    torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
    updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, update in enumerate(updates):
        alike[update.shape[0], update[0].numel()].append(i)
    for (rows, columns), places in alike.items():
        steps = orthogonal(torch.stack([updates[i].reshape(rows, columns) for i in places]))
        scale = _RMS * max(rows, columns) ** 0.5
        for i, step in zip(places, steps, strict=True):
            matrices[i].add_(step.reshape(matrices[i].shape), alpha=-group["lr"] * scale)


def _step_by_nadam(p: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """Adam whose mean is looked ahead by one step, after Dozat (2016).

    Both parts of the mean are divided by 1 − β1^t, where he divides the older by 1 − β1^(t+1): the first steps are up to 1.9
    times the rate long, within the warm-up. Results in docs/RESULTS.md are of this form.
    """
    beta1, beta2 = group["betas"]
    assert p.grad is not None
    state["step"] += 1
    steps = float(state["step"])
    mean = state["exp_avg"].lerp_(p.grad, 1 - beta1)
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
    size = (square.sqrt() / (1 - beta2**steps) ** 0.5).add_(_EPS)
    p.addcdiv_(mean.lerp(p.grad, 1 - beta1), size, value=-group["lr"] / (1 - beta1**steps))
