"""Network and preconditioning together: D(x; σ, map)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from echo_synth.diffusion.adm import AdmUNet
from echo_synth.diffusion.preconditioning import PRECONDS, Precond
from echo_synth.diffusion.song import SongUNet
from echo_synth.diffusion.unet import Modulations, SemanticUNet, UNetShape

_NCSNPP = {"embedding_type": "fourier", "residual_input": True, "noise_mult": 2, "taps": (1, 3, 3, 1)}


def build_network(kind: str, song: Mapping[str, Any] | None = None, **shape: Any) -> SemanticUNet:
    """The U-Net of that name: adm, ddpmpp, ncsnpp, or song with its arguments in `song`; `shape` as `UNetShape`."""
    sizes = UNetShape(**shape)
    if kind == "adm":
        return AdmUNet(sizes)
    presets: dict[str, Mapping[str, Any]] = {"ddpmpp": {}, "ncsnpp": _NCSNPP, "song": song or {}}
    return SongUNet(sizes, **presets[kind])


class Denoiser(nn.Module):
    """D(x; σ, m): the posterior mean of clean x given noisy x = clean + σ n and condition map m.

    Args:
        network: F.
        precond: formulation by name (edm, ve, vp, iddpm) or as an object.
    """

    def __init__(self, network: SemanticUNet, precond: str | Precond) -> None:
        super().__init__()
        self.network = network
        self.precond = PRECONDS[precond]() if isinstance(precond, str) else precond

    def modulate(
        self, labels: Tensor, dtype: torch.dtype = torch.float32, budget: int | None = None, fold: bool = False
    ) -> Modulations:
        """See `SemanticUNet.modulate`."""
        return self.network.modulate(labels, dtype, budget, fold)

    def forward(self, x: Tensor, sigma: Tensor, modulations: Modulations) -> Tensor:
        """Denoised x.

        Args:
            x: (N, C, R, R) float32 or float64, clean data plus noise of standard deviation σ.
            sigma: (N,) float.
            modulations: of the label maps, from `modulate`.

        Returns:
            (N, C, R, R) in x's dtype.
        """
        c = self.precond.scalings(sigma.to(x.dtype).reshape(-1, 1, 1, 1))
        dtype = next(self.network.parameters()).dtype
        f = self.network((c.input * x).to(dtype), c.noise.flatten(), modulations)
        return c.skip * x + c.out * f[:, : x.shape[1]].to(x.dtype)


def cast_network(network: SemanticUNet, dtype: torch.dtype) -> None:
    """Weights to `dtype`, in place; the random frequencies of a noise embedding stay float32.

    They are multiplied by 2π and large noise labels: in bf16 the phase would be off by radians.
    """
    kept = {name: b.clone() for name, b in network.named_buffers() if name.endswith("freqs")}
    network.to(dtype)
    for name, value in kept.items():
        network.get_submodule(name.rpartition(".")[0]).freqs = value


class Guided:
    """denoise(x, sigma) for given condition maps, with the known background filled in.

    The loss is masked by the sector, so the network's output outside has no meaning; the clean
    value there is known to be −1. Without filling it in, the network would get inputs that never
    occurred in training.

    Args:
        denoiser: D.
        modulations: of the label maps, from `Denoiser.modulate`.
        inside: (N, 1, R, R) bool, the sector.
    """

    def __init__(self, denoiser: Denoiser, modulations: Modulations, inside: Tensor) -> None:
        self.denoiser, self.modulations, self.inside = denoiser, modulations, inside

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(N, C, R, R) float64 of x (N, C, R, R) at the scalar σ, on the CPU; the network itself runs on float32 input."""
        levels = torch.full((len(x),), float(sigma), dtype=torch.float32, device=x.device)
        denoised = self.denoiser(x.float(), levels, self.modulations)
        return torch.where(self.inside, denoised, -1.0).double()
