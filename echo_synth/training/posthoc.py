"""Averages of any length after training, from snapshots of two (Karras et al. 2024, section 3.2).

Two power-function averages run along; snapshots of both are kept. The average of any other width
is their linear combination that is nearest to it in weight space, which needs no second training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_synth.errors import RunError
from echo_synth.runs.folder import AVERAGES
from echo_synth.runs.tensors import load_tensors, save_tensors
from echo_synth.training.ema import PowerEma, gamma_of_std

STDS = (0.05, 0.10)


class Snapshots:
    """Tracks the two averages and writes `count` snapshots of each, evenly over `steps`."""

    def __init__(self, module: nn.Module, folder: Path, count: int, steps: int) -> None:
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = list(module.parameters())
        self.tracks = [PowerEma(self.parameters, std) for std in STDS]
        self.folder, self.every = folder / AVERAGES, max(1, steps // count)

    def update(self, step: int, write: bool) -> None:
        """Fold in the weights after `step`; every so often, where `write` is set, keep a snapshot."""
        for track in self.tracks:
            track.update(self.parameters, step)
        if write and step % self.every == 0:
            self.folder.mkdir(exist_ok=True)
            for track in self.tracks:
                held = {n: t.half() for n, t in zip(self.names, track.average, strict=True)}
                facts = {"step": step, "std": track.std}
                save_tensors(self.folder / f"{step:09d}_{track.std:.3f}.safetensors", held, facts)

    def tensors(self) -> dict[str, Tensor]:
        """The averages, for the training state."""
        return {f"track{k}.{i}": t for k, track in enumerate(self.tracks) for i, t in enumerate(track.average)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        for k, track in enumerate(self.tracks):
            for i, average in enumerate(track.average):
                average.copy_(tensors[f"track{k}.{i}"])


def _overlap(
    t_a: NDArray[np.float64], g_a: NDArray[np.float64], t_b: NDArray[np.float64], g_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """∫ p_a p_b of two profiles p(t) = (γ+1) t^γ / T^(γ+1) on [0, T]; in logarithms, the powers are large."""
    low = np.minimum(t_a, t_b)
    log = (g_a + g_b + 1) * np.log(low) - (g_a + 1) * np.log(t_a) - (g_b + 1) * np.log(t_b)
    result: NDArray[np.float64] = (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * np.exp(log)
    return result


def combination(steps: Sequence[int], stds: Sequence[float], step: int, std: float) -> NDArray[np.float64]:
    """Weights of the snapshots (steps, stds) that best give the average of width `std` at `step`.

    Least squares between the averaging profiles: the normal equations of Karras 2024, appendix C.
    """
    t, g = np.asarray(steps, np.float64), np.asarray([gamma_of_std(s) for s in stds])
    target_t, target_g = np.full(1, float(step)), np.full(1, gamma_of_std(std))
    gram = _overlap(t[:, None], g[:, None], t[None], g[None])
    right = _overlap(t, g, target_t, target_g)
    return np.asarray(np.linalg.lstsq(gram, right, rcond=1e-10)[0], np.float64)


def average_of(run: Path, std: float) -> tuple[dict[str, Tensor], int]:
    """Parameters averaged with relative width `std` at the last snapshot of `run`, and its step.

    Raises RunError when the run kept no snapshots.
    """
    found = sorted((run / AVERAGES).glob("*.safetensors"))
    if not found:
        raise RunError(f"{run}: no snapshots in {AVERAGES}/; train with --snapshots 8 to choose the average afterwards")
    steps = [int(f.name.split("_")[0]) for f in found]
    stds = [float(f.stem.split("_")[1]) for f in found]
    weights = combination(steps, stds, max(steps), std)
    total: dict[str, Tensor] = {}
    for file, weight in zip(found, weights, strict=True):
        tensors, _ = load_tensors(file)
        for name, value in tensors.items():
            total[name] = total.get(name, torch.zeros_like(value, dtype=torch.float64)) + float(weight) * value.double()
    return {name: value.float() for name, value in total.items()}, max(steps)
