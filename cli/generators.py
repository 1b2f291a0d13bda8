"""Which model, VAE, maps and solver the drawing commands use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

SOLVER_HELP = "heun, euler, dpmpp-2m, unipc, or ddpm (ancestral)."
Model = Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")]
Vae = Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")]
Maps = Annotated[Path | None, typer.Option(help="Map folder; default: the newest, else the bundled maps.")]


@dataclass(frozen=True)
class Chosen:
    """What draws: the model's preset, its run, its VAE's run (None on pixels), where and in what precision."""

    spec: Any
    weights: Any
    latents: Any
    device: str
    precision: str

    def load(self, **how: Any) -> Any:
        """A `generation.engine.Generator`; `how` as it takes."""
        from echo_synth.generation.engine import ImageGenerator

        vae = self.latents.load() if self.latents else None
        return ImageGenerator(self.weights.load(), vae, self.device, self.precision, **how)


def choose(model: str, checkpoint: Path | None, vae: Path | None, device: str, precision: str) -> Chosen:
    """Settle what the options leave open. Raises SpecError or RunError that names the option."""
    from echo_synth import specs
    from echo_synth.device import resolve_precision, training_device
    from echo_synth.generation.sources import vae_run
    from echo_synth.runs.folder import find_diffusion

    spec = specs.diffusion_model(model)
    device = training_device(device)
    precision = resolve_precision(precision, device)
    weights = find_diffusion(model, checkpoint)
    return Chosen(spec, weights, vae_run(weights, spec.vae, vae), device, precision)


def first_maps(folder: Any, rows: Any) -> tuple[Any, Any]:
    """Tissue maps (N, 256, 256) and views (N,) of some rows of a map folder's index."""
    import numpy as np

    from echo_synth.types import VIEWS

    tissues = np.stack([folder.read(name) for name in rows["map"]])
    return tissues, np.asarray([VIEWS.index(v) for v in rows["view"]], np.uint8)


def known_solver(name: str) -> str:
    from echo_synth.errors import SpecError
    from echo_synth.sampling import SOLVERS

    if name not in SOLVERS:
        raise SpecError(f"--solver {name}: expected one of {', '.join(SOLVERS)}")
    return name
