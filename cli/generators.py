"""Which model, VAE, maps and solver the drawing commands use."""

from __future__ import annotations

from collections.abc import Mapping
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
    from echo_synth.runs.folder import find_run

    spec = specs.diffusion_model(model)
    device = training_device(device)
    precision = resolve_precision(precision, device)
    weights = find_run(model, checkpoint)
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


def solver_of(weights: Any, solver: str, nfe: int, known: Mapping[int, str]) -> str:
    """`solver`, or for auto what study-solvers found for this run, else for this model (`known`), else Heun (the paper's choice)."""
    from echo_synth.evaluation.solver_study import solver_for
    from echo_synth.files import read_json

    if solver != "auto":
        return solver
    file = weights.folder / "solvers.json"
    recommended = read_json(file)["recommended"] if file.is_file() else known
    return solver_for(recommended, nfe) if recommended else "heun"


def vae_run(weights: Any, vae_model: str | None, folder: Path | None) -> Any:
    from echo_synth.errors import RunError
    from echo_synth.runs.folder import find_vae_of, open_run

    if vae_model is None:
        return None
    if folder is None:
        return find_vae_of(weights.description, vae_model, weights.folder)
    run = open_run(folder, "vae")
    if run.hash() != weights.description["vae"]:
        raise RunError(
            f"{folder}: its weights are {run.hash()}, {weights.folder} was trained on {weights.description['vae']}"
        )
    return run


def newest_maps() -> Path:
    from echo_synth import specs
    from echo_synth.home import maps

    found = [p.parent for p in maps().glob("*/index.parquet")]
    return max(found, key=lambda p: p.stat().st_mtime) if found else specs.root() / "bundled" / "maps"
