"""What a sweep takes from elsewhere, found and named by content before any work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from echo_synth import checksums, specs
from echo_synth.data import nnunet_raw
from echo_synth.data.facts import content_of
from echo_synth.data.leakage import refuse_patients_of, refuse_test_patients
from echo_synth.data.maps import MapFolder, open_maps
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.subject import need_heart
from echo_synth.downstream import nnunet
from echo_synth.errors import DataError, LeakageError, RunError, SpecError
from echo_synth.experiment.measured import Throughput
from echo_synth.experiment.spec import ModelGrid, SweepSpec
from echo_synth.experiment.stages import OWN_IDS, imported_name
from echo_synth.folders import MARKER
from echo_synth.generation.solver_choice import SolverChoice, choose_solver
from echo_synth.generation.sources import newest_maps, vae_run
from echo_synth.home import home
from echo_synth.runs.data import training_data_of
from echo_synth.runs.find import find_diffusion
from echo_synth.runs.folder import DiffusionRun, file_hash


@dataclass(frozen=True)
class SweepInputs:
    """What a sweep reads and does not make.

    Attributes:
        real: dataset of real patients.
        maps: folder of condition maps.
        checkpoints: run folders by the fingerprint of their weights, which the stages' hashes hold.
        fingerprints: of imported datasets, of the real data ("real"), the maps ("maps"), the trainer ("trainer"), and of the weights of each row.
        solvers: by row and NFE, "auto" resolved; it stays where a run's own noise levels come with it.
        levels: those noise levels, as text.
        sizes: of the network of each row.
        contents: what fingerprints leave out, see `contents.check_contents`: hashes of all files of the real data ("real") and of
            the maps ("maps"), None where their SHA256SUMS is missing, and of the texture that each row draws with.
    """

    real: RawDataset
    maps: Path
    checkpoints: dict[str, Path]
    fingerprints: dict[str, str]
    solvers: dict[tuple[str, int], str]
    levels: dict[tuple[str, int], str] = field(default_factory=dict)
    contents: Mapping[str, str | None] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)


def find_inputs(spec: SweepSpec, say: Callable[[str], None] = print) -> SweepInputs:
    """Find everything that `spec` needs; says which run each row draws with.

    Raises DataError or RunError when something is missing, LeakageError when maps or weights know patients on whom
    the sweep evaluates.
    """
    if spec.real in OWN_IDS:
        raise SpecError(
            f"real: {spec.real}: sweeps give this id to images of their own; convert the real data under another, such as 501"
        )
    real = nnunet_raw.find(spec.real)
    need_heart(real.subject, f"real: {spec.real}", "run its commands one by one, as docs/other-datasets.md does")
    held_out = nnunet_raw.test_patients(real)
    opened = open_maps(home() / spec.maps if spec.maps else newest_maps())
    _check_maps(opened, real, held_out)
    maps = opened.path
    fingerprints = {"real": file_hash(real.path / "cases.csv"), "maps": file_hash(maps / "index.parquet")}
    if spec.segmenter:
        fingerprints["trainer"] = _budget_facts(spec.segmenter.trainer)
    for cell in spec.cells.values():
        if cell.dataset is not None:
            fingerprints[imported_name(cell.dataset)] = _imported(cell.dataset, real)
    checkpoints: dict[str, Path] = {}
    solvers: dict[tuple[str, int], str] = {}
    levels: dict[tuple[str, int], str] = {}
    sizes: dict[str, str] = {}
    contents = {"real": content_of(real.path), "maps": checksums.content_hash(maps, ("settings.json", MARKER))}
    for row, grid in spec.models.items():
        model = spec.model_of(row)
        run = _run_of(model, grid)
        _check_run(run, real, held_out, say)
        fingerprints[row], contents[row] = weights_hash(run, model), texture_of(run, model)
        checkpoints[fingerprints[row]] = run.folder
        sizes[row] = run.description.size
        known = specs.diffusion_model(model).solvers
        chosen = {(row, nfe): _solver(row, grid, run, nfe, known) for nfe in grid.nfe}
        levels |= {key: text for key, choice in chosen.items() if (text := choice.shown())}
        solvers |= {key: "auto" if key in levels else choice.solver for key, choice in chosen.items()}
        say(f"{row}: {run.folder}{'' if grid.checkpoint else _why(run, model)}")
    return SweepInputs(real, maps, checkpoints, fingerprints, solvers, levels, contents, sizes)


def check_sizes(inputs: SweepInputs, throughput: Throughput) -> None:
    """Raise SpecError where a benchmark is of another size than the networks that draw: its seconds would be false by far."""
    measured = throughput.machine.size
    for row, size in inputs.sizes.items():
        if measured is not None and size != measured:
            raise SpecError(
                f"--benchmark {throughput.folder}: measured size {measured}, models.{row} draws with size {size}; "
                f"measure with 'echosynth benchmark --size {size}'"
            )


def _solver(row: str, grid: ModelGrid, run: DiffusionRun, nfe: int, known: Mapping[int, str]) -> SolverChoice:
    """Raises SpecError, which names the row."""
    try:
        return choose_solver(run, grid.solver, nfe, known, grid.sigma_max)
    except SpecError as e:
        raise SpecError(f"models.{row}: {e}") from None


def _budget_facts(trainer: str) -> str:
    """A trainer's budget as it is hashed; what earlier versions did not know is left out where it is as it was."""
    budget = asdict(nnunet.trainer_budget(trainer))
    return json.dumps({k: v for k, v in budget.items() if (k, v) != ("optimizer", "adam")}, sort_keys=True)


def _imported(dataset_id: int, real: RawDataset) -> str:
    """Hash of all files of an imported dataset, which knows nobody whom `real` holds out.

    Raises DataError where there is none, or no hashes were recorded; LeakageError.
    """
    dataset = nnunet_raw.find(dataset_id, "cells: dataset")
    refuse_patients_of(real, dataset.cases()["patient"], f"images in {dataset.name}")
    content = content_of(dataset.path)
    if content is None:
        raise DataError(
            f"{dataset.path}: no {checksums.SUMS}; expected a dataset that 'echosynth import-images' has finished"
        )
    return content


def _run_of(model: str, grid: ModelGrid) -> DiffusionRun:
    try:
        return find_diffusion(model, home() / grid.checkpoint if grid.checkpoint else None)
    except RunError as e:
        raise RunError(
            f"{e}\nTo estimate the cost before there are weights: 'echosynth sweep SPEC --dry-run --benchmark DIR'"
        ) from None


def _is_bundled(run: DiffusionRun) -> bool:
    return run.folder.is_relative_to(specs.root())


def _why(run: DiffusionRun, model: str) -> str:
    """Why a run was taken that the sweep's file does not name."""
    return (
        ", the bundled weights, trained on simulated patients" if _is_bundled(run) else f", the newest run of {model}"
    )


def weights_hash(run: DiffusionRun, model: str) -> str:
    """Hash of the weights that draw, the Γ-VAE's included."""
    vae = vae_run(run, specs.diffusion_model(model).vae, None)
    return run.hash() + (vae.hash() if vae else "")


def texture_of(run: DiffusionRun, model: str) -> str:
    """Hash of the texture that `generate` adds to the images, "none" where it adds none."""
    vae = vae_run(run, specs.diffusion_model(model).vae, None)
    return (vae.texture_hash() if vae else None) or "none"


def _check_maps(maps: MapFolder, real: RawDataset, held_out: set[str]) -> None:
    """Whatever dataset they were made from: nobody whom `real` holds out may be in them."""
    try:
        refuse_test_patients(maps.index["patient"], held_out, f"condition maps in {maps.path}")
    except LeakageError as e:
        raise LeakageError(
            f"{e}\nThe sweep evaluates on {real.name}; make maps of it with 'echosynth make-maps --dataset-id {real.id}'"
        ) from None


def _check_run(run: DiffusionRun, real: RawDataset, held_out: set[str], say: Callable[[str], None]) -> None:
    """Nobody whom `real` holds out may have trained the generator, as far as its data can be found."""
    if _is_bundled(run):
        return  # simulated people, whose dataset's name may be taken by another here
    known = training_data_of(run.folder)
    if known is not None:  # the patients themselves, whatever has become of that dataset since
        refuse_test_patients(known.patients, held_out, f"training data of {run.folder} ({known.dataset})")
        return
    name = run.description.trained_on
    if name == real.name:
        return
    other = RawDataset(real.path.parent / name) if name else None
    if other is None or not (other.path / "cases.csv").is_file():
        data = f"{name}, which is not here" if name else "data that its model.json does not name"
        say(f"{run.folder}: trained on {data}; whether it saw test patients of {real.name} cannot be checked")
        return
    cases = other.cases()
    trained = cases.loc[cases["split"] != "test", "patient"]
    refuse_test_patients(trained, held_out, f"training data of {run.folder} ({name})")
