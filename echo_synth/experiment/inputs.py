"""What a sweep takes from elsewhere, found and named by content before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import open_maps
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.downstream import nnunet
from echo_synth.experiment.spec import ModelGrid, SweepSpec
from echo_synth.generation.sources import newest_maps, solver_of, vae_run
from echo_synth.home import home
from echo_synth.runs.folder import DiffusionRun, file_hash, find_diffusion


@dataclass(frozen=True)
class SweepInputs:
    """What a sweep reads and does not make.

    Attributes:
        real: dataset of real patients.
        maps: folder of condition maps.
        checkpoints: run folders by the fingerprint of their weights, which the stages' hashes hold.
        fingerprints: of the real data ("real"), the maps ("maps"), the trainer ("trainer"), and of the weights of each row.
        solvers: by row and NFE, "auto" resolved.
    """

    real: RawDataset
    maps: Path
    checkpoints: dict[str, Path]
    fingerprints: dict[str, str]
    solvers: dict[tuple[str, int], str]


def find_inputs(spec: SweepSpec, say: Callable[[str], None] = print) -> SweepInputs:
    """Find everything that `spec` needs; says which run each row draws with.

    Raises DataError or RunError when something is missing.
    """
    real = nnunet_raw.find(spec.real)
    maps = open_maps(home() / spec.maps if spec.maps else newest_maps()).path
    fingerprints = {"real": file_hash(real.path / "cases.csv"), "maps": file_hash(maps / "index.parquet")}
    if spec.segmenter:
        fingerprints["trainer"] = json.dumps(asdict(nnunet.trainer_budget(spec.segmenter.trainer)), sort_keys=True)
    checkpoints: dict[str, Path] = {}
    solvers: dict[tuple[str, int], str] = {}
    for row, grid in spec.models.items():
        model = spec.model_of(row)
        run = _run_of(model, grid)
        fingerprints[row] = _weights_hash(run, model)
        checkpoints[fingerprints[row]] = run.folder
        known = specs.diffusion_model(model).solvers
        solvers |= {(row, nfe): solver_of(run, grid.solver, nfe, known) for nfe in grid.nfe}
        say(f"{row}: {run.folder}{'' if grid.checkpoint else ', the newest run of ' + model}")
    return SweepInputs(real, maps, checkpoints, fingerprints, solvers)


def _run_of(model: str, grid: ModelGrid) -> DiffusionRun:
    return find_diffusion(model, home() / grid.checkpoint if grid.checkpoint else None)


def _weights_hash(run: DiffusionRun, model: str) -> str:
    """Hash of the weights that draw, the Γ-VAE's included."""
    vae = vae_run(run, specs.diffusion_model(model).vae, None)
    return run.hash() + (vae.hash() if vae else "")
