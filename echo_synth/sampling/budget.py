"""NFE accounting: evaluations are counted where they happen, never estimated from steps."""

from __future__ import annotations

from torch import Tensor

from echo_synth.sampling.ode import Denoise


class CountedDenoiser:
    """Wraps a denoiser and counts its calls."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.calls = denoise, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return self.denoise(x, sigma)
