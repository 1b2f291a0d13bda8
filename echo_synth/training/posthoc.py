"""Averages of any length after training, from snapshots of two (Karras et al. 2024, section 3.2).

Two power-function averages run along; snapshots of both are kept. The average of any other width
is their linear combination that is nearest to it in weight space, which needs no second training.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_synth import checksums
from echo_synth.errors import RunError
from echo_synth.files import write_json
from echo_synth.folders import mark, new_folder
from echo_synth.runs.data import DATA
from echo_synth.runs.folder import AVERAGES, DESCRIPTION, WEIGHTS, Run, VaeRun
from echo_synth.runs.tensors import load_tensors, save_tensors
from echo_synth.training.ema import PowerEma, gamma_of_std

STDS = (0.05, 0.10)
AVERAGED = "average-weights"  # the command whose run folders these are
_SNAPSHOT = re.compile(r"([0-9]{1,12})_(0\.[0-9]{1,6})\.safetensors")  # step and width


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
                origin = {"step": step, "std": track.std}
                save_tensors(self.folder / f"{step:09d}_{track.std:.3f}.safetensors", held, origin)

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
    """Weights (K,) of K snapshots (steps, stds) that best give the average of width `std` at `step`; they sum to 1.

    Least squares between the averaging profiles (the normal equations of Karras 2024, appendix C),
    under the condition that the weights sum to 1 as those of every average do: without it they sum
    to 0.94 and less where the snapshots cannot reach the profile, and all weights shrink.
    """
    t, g = np.asarray(steps, np.float64), np.asarray([gamma_of_std(s) for s in stds])
    target_t, target_g = np.full(1, float(step)), np.full(1, gamma_of_std(std))
    gram = _overlap(t[:, None], g[:, None], t[None], g[None])
    right = np.stack([_overlap(t, g, target_t, target_g), np.ones(len(t))], axis=1)
    free, towards_one = np.linalg.lstsq(gram, right, rcond=1e-10)[0].T
    weights = np.asarray(free + towards_one * (1 - free.sum()) / towards_one.sum(), np.float64)
    return weights / weights.sum()  # what rounding leaves


def average_of(run: Path, std: float) -> tuple[dict[str, Tensor], int]:
    """Parameters averaged with relative width `std` at the last snapshot of `run`, float32, and its step.

    Raises RunError when the run kept no snapshots, or they are not of one network, or not finite.
    """
    named = {f: _SNAPSHOT.fullmatch(f.name) for f in sorted((run / AVERAGES).glob("*.safetensors"))}
    snapshots = {f: (int(m[1]), float(m[2])) for f, m in named.items() if m and int(m[1]) and float(m[2])}
    if not snapshots:
        raise RunError(f"{run}: no snapshots in {AVERAGES}/; train with --snapshots 8 to choose the average afterwards")
    steps, stds = zip(*snapshots.values(), strict=True)
    total: dict[str, Tensor] = {}
    for file, weight in zip(snapshots, combination(steps, stds, max(steps), std), strict=True):
        tensors, _ = load_tensors(file)
        if total and {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in total.items()}:
            raise RunError(f"{file}: not of the same network as the other snapshots in {AVERAGES}/")
        for name, value in tensors.items():
            before = total.get(name, torch.zeros_like(value, dtype=torch.float64))
            total[name] = before + float(weight) * value.double()
    return {name: value.float() for name, value in total.items()}, max(steps)


def write_average(source: Run, std: float, out: Path, overwrite: bool, settings: Mapping[str, Any]) -> int:
    """`source` with the average of width `std` as its weights, as a run folder `out`; returns the step of the average.

    Raises:
        RunError: see `average_of`; or the snapshots are not of the run's network.
        ExistsError: `out` exists and may not be replaced.
    """
    averaged, step = average_of(source.folder, std)
    kept, _ = load_tensors(source.weights)
    foreign = [name for name, value in averaged.items() if name not in kept or kept[name].shape != value.shape]
    if foreign:
        raise RunError(f"{source.folder / AVERAGES}: its snapshots are not of {source.weights} (e.g. {foreign[0]:.80})")
    told: dict[str, Any] = {"ema_std": std, "averaged_from": str(source.folder)}
    if isinstance(source, VaeRun):  # the snapshots are older than the decoder's last phase
        told["decoder_finish"] = 0
    description = source.description.model_copy(update=told)
    with new_folder(out, AVERAGED, overwrite, [source.folder]) as new:
        save_tensors(new / WEIGHTS, kept | averaged)
        write_json(new / DESCRIPTION, description.as_json())
        write_json(new / "settings.json", settings)
        if (source.folder / DATA).is_file():
            shutil.copy2(source.folder / DATA, new)
        mark(new, AVERAGED)
        checksums.record(new)
    return step
