"""What the engine needs to distil a diffusion model: the consistency loss, and the distance to the teacher's solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from echo_synth.diffusion.consistency import ConsistencyLevels, consistency_loss
from echo_synth.diffusion.denoiser import Denoiser, Guided
from echo_synth.masked import sector_mean
from echo_synth.sampling import sample
from echo_synth.training.streams import Stream, generator, normal
from echo_synth.training.tasks.diffusion import VAL_POSITION, DiffusionTask, Fields
from echo_synth.vae.codec import Codec

_CASES, _BATCH, _SOLUTION_NFE = 32, 8, 40


class ConsistencyTask(DiffusionTask):
    """Batches, loss, validation and sample pictures of a consistency model.

    Args:
        train, val, device, seed, codec, samples, classes, stratum: as `DiffusionTask`.
        teacher: the denoiser that is distilled, on `device`, without gradients.
        levels: noise levels of training.
        renoise: level σ of a second evaluation.
        huber: see `consistency_loss`.
        by_teacher: whether targets lie on the teacher's trajectories, not on lines to the data.
    """

    def __init__(
        self,
        train: Fields,
        val: Fields,
        device: str,
        seed: int,
        teacher: Denoiser,
        levels: ConsistencyLevels,
        renoise: float,
        huber: float,
        by_teacher: bool,
        codec: Codec | None = None,
        samples: Path | None = None,
        classes: int = 10,
        stratum: int = 0,
    ) -> None:
        super().__init__(train, val, device, seed, codec, samples, classes, stratum)
        self.teacher, self.levels, self.renoise = teacher, levels, renoise
        self.huber, self.by_teacher = huber, by_teacher
        self._solutions: list[Tensor] = []

    def loss(self, module: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        """Mean consistency loss of one micro-batch."""
        clean, labels, sector, noise, u = self.batch(positions)
        levels = self.levels.draw(u, positions)
        guide = self.teacher if self.by_teacher else None
        assert isinstance(module, Denoiser)
        return {"loss": consistency_loss(module, clean, labels, sector, levels, noise, self.huber, guide).mean()}

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Root mean squared distance in the sector to the teacher's solution from the same noise, in 1 and 2 evaluations."""
        assert isinstance(module, Denoiser)
        total = np.zeros(2)
        count = min(_CASES, len(self.val.clean))
        chunks = np.array_split(np.arange(count), max(1, count // _BATCH))
        rows = np.linspace(0, len(self.val.clean) - 1, count).astype(np.intp)
        for k, chunk in enumerate(chunks):
            clean, labels, sector = self.load(self.val, rows[chunk])
            positions = [VAL_POSITION + int(i) for i in chunk]
            noise = normal(0, positions, clean.shape[1:]).to(self.device)
            if k == len(self._solutions):
                self._solutions.append(self._solve(noise, labels, sector))
            for nfe in (1, 2):
                drawn = self._draw(module, noise, labels, sector, nfe, positions)
                total[nfe - 1] += float(sector_mean((drawn - self._solutions[k]) ** 2, sector).sqrt().sum())
        return {"distance": float(total[0]) / count, "distance_2": float(total[1]) / count}

    def _solve(self, noise: Tensor, labels: Tensor, sector: Tensor) -> Tensor:
        guided = Guided(self.teacher, self.teacher.modulate(labels), sector > 0)
        return sample(guided, noise, nfe=_SOLUTION_NFE, solver="dpmpp-2m")

    def _draw(
        self, module: Denoiser, noise: Tensor, labels: Tensor, sector: Tensor, nfe: int, positions: Sequence[int]
    ) -> Tensor:
        guided = Guided(module, module.modulate(labels), sector > 0)
        sigmas = (self.levels.sigma_max, self.renoise)[:nfe]

        def again(x: Tensor) -> Tensor:
            drawn = [torch.randn(*x.shape[1:], generator=generator(0, p, Stream.STEP)) for p in positions]
            return torch.stack(drawn).to(x)

        return sample(guided, noise, nfe=nfe, solver="consistency", sigmas=sigmas, draw=again)

    def _sample(self, denoiser: Denoiser, noise: Tensor, labels: Tensor, sector: Tensor) -> Tensor:
        """Fields (N, C, R, R) from `noise` of that shape, in two evaluations."""
        return self._draw(denoiser, noise, labels, sector, 2, [VAL_POSITION + i for i in range(len(noise))])
