"""Easy consistency tuning (Geng et al. 2024): a denoiser becomes the map from any point of a trajectory to its end.

f(x_t, t) is drawn to f(x_r, r) of a point at a lower noise level r < t on the same trajectory, where f has the
denoiser's own preconditioning, so that f(x, 0) = x. The gap between t and r shrinks as training goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echo_synth.diffusion.denoiser import Denoiser
from echo_synth.masked import sector_mean

_LEAST = 1e-4  # level at which a network is evaluated in place of 0, where its answer is not used


@dataclass(frozen=True)
class ConsistencyLevels:
    """Noise levels (t, r) of a training sample; σ in units of the clean data.

    Attributes:
        sigma_min, sigma_max: range of t.
        p_mean, p_std: of ln t, which is normal (Geng et al. for images), cut to the range.
        halve_every: samples after which the share (t − r) / t is halved.
        widening: k of n(t) = 1 + k sigmoid(−t), by which the gap is wider at low noise.
    """

    sigma_max: float
    halve_every: int
    sigma_min: float = 0.002
    p_mean: float = -1.1
    p_std: float = 2.0
    widening: float = 8.0

    def draw(self, uniform: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """t and r < t (N,) float32 of `uniform` draws (N,) in (0, 1) and positions in training; r may be 0."""
        t = (torch.special.ndtri(uniform.double()) * self.p_std + self.p_mean).exp()
        t = t.clamp(self.sigma_min, self.sigma_max)
        stage = torch.tensor([p // self.halve_every for p in positions], dtype=torch.float64, device=t.device)
        share = 0.5 ** (stage + 1) * (1 + self.widening * torch.sigmoid(-t))
        return t.float(), (t * (1 - share)).clamp_min(0).float()


def consistency_loss(
    student: Denoiser,
    clean: Tensor,
    labels: Tensor,
    sector: Tensor,
    levels: tuple[Tensor, Tensor],
    noise: Tensor,
    huber: float,
    teacher: Denoiser | None = None,
) -> Tensor:
    """√(|f(x_t, t) − f(x_r, r)|² + c²) − c, with the mean over in-sector pixels, over c_out(t), per image.

    Args:
        clean, labels, sector, noise: as `loss.denoising_loss` takes them; x_t = clean + t n.
        levels: t and r (N,), see `ConsistencyLevels`; where r is 0 the end itself is the target.
        huber: c, in units of the clean data.
        teacher: x_r is its Heun step from x_t (consistency distillation); None: clean + r n (easy consistency tuning).

    Returns:
        (N,) float32.
    """
    t, r = (level.reshape(-1, 1, 1, 1) for level in levels)
    noisy = clean + t * noise
    modulations = student.modulate(labels)
    state = _random_state(clean)
    # The student's own pass comes first: autocast keeps its casts of the weights, which must know gradients.
    predicted = student(noisy, levels[0], modulations)
    devices = [clean.device] if clean.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        nearer = clean + r * noise
        if teacher is not None:
            nearer = torch.where(sector > 0, heun_step(teacher, noisy, levels, labels, sector), nearer)
        _restore(state, clean)  # the same masks of dropout on both sides
        target = student(nearer, levels[1].clamp_min(_LEAST), modulations)
        target = torch.where(r > 0, target.float(), nearer)
    with torch.autocast(clean.device.type, enabled=False):
        squared = sector_mean((predicted.float() - target) ** 2, sector)
        return ((squared + huber**2).sqrt() - huber) / student.precond.scalings(levels[0]).out.abs()


def heun_step(teacher: Denoiser, x: Tensor, levels: tuple[Tensor, Tensor], labels: Tensor, sector: Tensor) -> Tensor:
    """x (N, 1, R, R) at levels t (N,) brought to r (N,) along the teacher's ODE; Euler's step where r is 0.

    Outside `sector` (N, 1, R, R) the clean image is −1, as in sampling (`denoiser.Guided`): what the teacher says there has no
    meaning, and its second evaluation would see it.
    """
    t, r = (level.reshape(-1, 1, 1, 1) for level in levels)
    modulations = teacher.modulate(labels)

    def slope(at: Tensor, level: Tensor) -> Tensor:
        denoised = torch.where(sector > 0, teacher(at, level.flatten(), modulations).float(), -1.0)
        return (at - denoised) / level

    first = slope(x, t)
    ahead = x + (r - t) * first
    second = slope(ahead, r.clamp_min(_LEAST))
    return torch.where(r > 0, x + (r - t) * (first + second) / 2, ahead)


def _random_state(like: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(like.device) if like.is_cuda else torch.get_rng_state()


def _restore(state: Tensor, like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.set_rng_state(state, like.device)
    else:
        torch.set_rng_state(state)
