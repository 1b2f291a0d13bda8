"""Training throughput against the plain way, in one process: EDM-L64 at size paper, batch 2, as the default.

    python docs/recipes/benchmark_training.py --size paper --batch 2 --steps 3

Plain: float32, the Γ-VAE encodes its images in every step, nothing is kept. Ours: what `echosynth
train` does on this machine: bf16 where the hardware multiplies in it, latents kept from before.
Both run the same forward and backward pass and optimiser on the same network, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from echo_synth import specs
from echo_synth.device import resolve_precision, training_device
from echo_synth.diffusion.loss import denoising_loss
from echo_synth.runs.description import build_model, describe_diffusion, describe_vae
from echo_synth.training.run import memory_format


def seconds(step: Callable[[], None], repeats: int) -> list[float]:
    """Durations of `repeats` steps after one that is not counted."""
    step()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="edm-l64")
    parser.add_argument("--size", default="paper")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    spec, device = specs.diffusion_model(arguments.model), training_device("auto")
    precision = resolve_precision("auto", device)
    denoiser = build_model(describe_diffusion(arguments.model, arguments.size, None)).to(device)
    vae = build_model(describe_vae(spec.vae, arguments.size)).to(device).eval() if spec.vae else None
    n, r = arguments.batch, spec.resolution
    images, sector = torch.rand(n, 1, 256, 256, device=device), torch.ones(n, 1, 256, 256, device=device)
    kept, labels = torch.rand(n, 1, r, r, device=device) * 2 - 1, torch.randint(0, 10, (n, r, r), device=device)
    inside, noise, u = torch.ones_like(kept), torch.randn_like(kept), torch.rand(n, device=device) * 0.98 + 0.01
    optimizer = torch.optim.AdamW(denoiser.parameters(), 1e-4)

    def train(clean: Tensor) -> None:
        denoising_loss(denoiser, clean, labels, inside, u, noise)[0].mean().backward()  # type: ignore[arg-type]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def plain() -> None:
        with torch.no_grad():
            clean = 2 * vae.latent(images, sector) - 1 if vae else kept  # type: ignore[operator]
        train(clean)

    def ours() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            train(kept)

    slow = seconds(plain, arguments.steps)
    denoiser.to(memory_format=memory_format(device))
    fast = seconds(ours, arguments.steps)
    for name, taken in (("plain", slow), ("ours", fast)):
        print(
            f"{name}: {n / statistics.median(taken):.3f} images/s (slowest {n / max(taken):.3f}, fastest {n / min(taken):.3f})"
        )
    parameters = sum(p.numel() for p in denoiser.parameters()) / 1e6
    print(
        f"{arguments.model} {arguments.size} ({parameters:.0f} M parameters), batch {n}, {precision} on {device}: "
        f"ratio {statistics.median(slow) / statistics.median(fast):.2f}"
    )


if __name__ == "__main__":
    main()
