"""Can a network tell the images of a dataset from real ones? The area under its ROC curve on patients that it has not seen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_synth.evaluation.image_sets import ImageSet
from echo_synth.evaluation.statistics import number
from echo_synth.metrics.bootstrap import patient_statistic
from echo_synth.metrics.classification import auroc

_IMAGES = 400  # of each kind, at most
_BATCH = 16
_EPOCHS = 6


class RealOrSynthetic(nn.Sequential):
    """One logit, high for real images: four convolutions at strides of two over the image and what is finer than 5 px in it."""

    def __init__(self) -> None:
        widths = (2, 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.SiLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1) of images (N, 1, H, W) in [−1, 1]."""
        fine = images - nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
        logits: Tensor = super().forward(torch.cat([images, 8 * fine], 1))
        return logits


def told_apart(real: ImageSet, synthetic: ImageSet, seed: int, device: str = "cpu") -> dict[str, Any] | None:
    """Area under the ROC curve of real (1) against synthetic images (0): 0.5 if they cannot be told apart, 1 if always.

    Two folds, half the patients each: a network trained on one judges the other. At most 400 images of each kind, as many of
    both, spread evenly.

    Returns:
        auroc, ci95 (patients resampled) and images (of both kinds together); None if a fold lacks real or synthetic images.
    """
    n = min(len(real.pixels), len(synthetic.pixels), _IMAGES)
    chosen = [s.where(np.linspace(0, len(s.pixels) - 1, n).astype(int)) for s in (real, synthetic)]
    truth, patients = np.repeat([1, 0], n), np.concatenate([s.patients for s in chosen])
    known = np.random.default_rng(seed).permutation(sorted(set(patients)))
    first = np.isin(patients, known[: len(known) // 2])
    if any(len(set(truth[fold])) < 2 for fold in (first, ~first)):
        return None
    inputs = torch.from_numpy(np.concatenate([s.pixels for s in chosen]))[:, None]
    scores = np.zeros(len(truth))
    for judged in (first, ~first):
        network = _trained(inputs[~judged], torch.from_numpy(truth[~judged]), seed, device)
        scores[judged] = _scores(network, inputs[judged], device)
    _, ends = patient_statistic(lambda i: auroc(truth[i], scores[i]), patients, seed=seed)
    return {"auroc": auroc(truth, scores), "ci95": [number(end) for end in ends], "images": 2 * n}


def _trained(images: Tensor, truth: Tensor, seed: int, device: str) -> RealOrSynthetic:
    """A network that has seen each of `images` (N, 1, H, W) uint8 six times, some of them mirrored."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RealOrSynthetic().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    steps = -(-_EPOCHS * len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (_BATCH,), generator=random)
        batch = _values(images[rows], device)
        if torch.rand((), generator=random) < 0.5:
            batch = batch.flip(-1)
        logits = network(batch)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truth[rows].to(device, torch.float32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def _scores(network: RealOrSynthetic, images: Tensor, device: str) -> NDArray[np.float64]:
    """Logits (N,) of images (N, 1, H, W) uint8."""
    parts = [network(_values(part, device))[:, 0].double().cpu() for part in images.split(_BATCH)]
    return torch.cat(parts).numpy()


def _values(pixels: Tensor, device: str) -> Tensor:
    return pixels.to(device, torch.float32) / 127.5 - 1
