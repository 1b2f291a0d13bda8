"""A dataset that is asked for: model, sampler, maps and plan, and what of them decides its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth.data.leakage import refuse_patients_of
from echo_synth.data.maps import MapFolder, open_maps
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.subject import Subject
from echo_synth.errors import DataError
from echo_synth.estimate import format_bytes
from echo_synth.generation.engine import ImageGenerator, SamplerSettings, default_settings
from echo_synth.generation.estimate import process_bytes
from echo_synth.generation.facts import dataset_facts, learnt_from
from echo_synth.generation.known_levels import start_of
from echo_synth.generation.manifest import fingerprint, plan_images
from echo_synth.generation.solver_choice import SolverChoice, choose_solver
from echo_synth.generation.sources import SampledImages, TrainedModel, newest_maps
from echo_synth.generation.targets import Target
from echo_synth.home import nnunet_folder
from echo_synth.runs.data import training_data_of
from echo_synth.runs.folder import DiffusionRun

# Of EDM-L64 tiny on two cores with AMX; all that is done once an image takes as long as four evaluations (docs/RESULTS.md).
_EVALUATION_SECONDS, _DECODING_EVALUATIONS = 0.007, 4


@dataclass(frozen=True)
class MapPlan:
    """Which images are drawn from which maps: a plan of `manifest.plan_images`, its maps, and the seed."""

    maps: MapFolder
    rows: pd.DataFrame
    seed: int

    def identity(self) -> dict[str, Any]:
        """What of the plan decides the files' content."""
        return {"maps_hash": fingerprint(self.maps, self.rows), "count": len(self.rows)}


def plan_from(maps: Path | None, count: int | None, seed: int, trained_on: str | None = None) -> MapPlan:
    """The plan for `count` images (None: one a map) from a map folder (None: the newest).

    Args:
        trained_on: name of the raw dataset that the model learnt; where it is at hand, its test
            patients may not be among the maps', whatever the map folder itself says.

    Raises:
        DataError: no map folder.
        LeakageError: a map was made from a held-out patient.
    """
    folder = open_maps(maps or newest_maps())
    refuse_held_out(folder, trained_on)
    return MapPlan(folder, plan_images(folder.index, count, seed), seed)


def refuse_held_out(folder: MapFolder, trained_on: str | None) -> None:
    """Raise LeakageError when a map is of a test patient of the raw dataset `trained_on`, where that is at hand."""
    if trained_on is not None and (nnunet_folder("nnUNet_raw") / trained_on / "cases.csv").is_file():
        learnt = RawDataset(nnunet_folder("nnUNet_raw") / trained_on)
        refuse_patients_of(learnt, folder.index["patient"], f"condition maps in {folder.path}")


def refuse_other_subject(run: DiffusionRun, maps: MapFolder) -> None:
    """Raise DataError where a model learnt other views or labels than the maps have: its classes would mean other things.

    Runs that do not say what they learnt (imported, of earlier versions, bundled) learnt CAMUS's heart.
    """
    advice = "pass --checkpoint of a run that was trained on the maps' dataset, or --maps of the run's"
    _refuse_subject(run, maps.subject, f"the maps in {maps.path} show", advice)


def refuse_other_views(run: DiffusionRun, dataset: RawDataset) -> None:
    """`refuse_other_subject` of a dataset's own maps."""
    _refuse_subject(
        run, dataset.subject, f"{dataset.name} shows", "choose a run that was trained on it, or its dataset"
    )


def _refuse_subject(run: DiffusionRun, subject: Subject, shown: str, advice: str) -> None:
    known = training_data_of(run.folder)
    learnt = known.subject if known else ""
    if learnt != subject.key():
        what = "other views or labels" if learnt else "hearts"
        raise DataError(f"{run.folder}: learnt {what}, {shown} '{subject.title}'; {advice}")


@dataclass(frozen=True)
class Generation:
    """A synthetic dataset of a trained model.

    Attributes:
        model: what draws.
        sampler: how.
        plan: from what.
        batch: images at once; neighbours of a batch change an image's rounding.
        fast, compiled, modulation_bytes: see `ImageGenerator`.
    """

    model: TrainedModel
    sampler: SamplerSettings
    plan: MapPlan
    batch: int
    fast: bool = True
    compiled: bool = False
    modulation_bytes: int = 4 << 30

    @property
    def name(self) -> str:
        """Of the dataset, without its id: EDM-L64_nfe20."""
        distilled = "_distilled" if self.model.run.description.distilled else ""
        return f"{self.model.spec.dataset_name}{distilled}_nfe{self.sampler.nfe}"

    def recorded(self) -> dict[str, Any]:
        """Columns of the manifest that are the same for all images."""
        description = self.model.run.description
        texture = {"texture_hash": self.model.vae.texture_hash()} if self.model.vae and self.model.texture else {}
        levels = SolverChoice(self.sampler.solver, self.sampler.sigmas).shown()
        sigmas: dict[str, Any] = {"sigmas": levels} if levels else {}
        if self.sampler.sigma_max is not None:
            sigmas["sigma_max"] = self.sampler.sigma_max
        return (
            texture
            | sigmas
            | {
                "model": self.model.run.description.model,
                "size": description.size,
                "model_hash": self.model.run.hash(),
                "vae_hash": self.model.vae.hash() if self.model.vae else None,
                "nfe": self.sampler.nfe,
                "solver": self.sampler.solver,
                "discretization": self.sampler.discretization,
                "seed": self.plan.seed,
                "precision": self.model.precision,
                "trained_on": description.trained_on,
            }
        )

    def identity(self) -> dict[str, Any]:
        """Settings that decide the files' content: a dataset is completed with the same ones only."""
        computed = {"batch": self.batch, "fast": self.fast, "compile": self.compiled}
        return self.recorded() | self.plan.identity() | computed

    def facts(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What dataset.json and CARD.md say; `identity` is `self.identity()`, which takes a while."""
        maps, learnt = self.plan.maps.path, learnt_from(self.model.run)
        return dataset_facts("generate", self.recorded(), self.plan.rows, maps, identity["maps_hash"], learnt)

    def load(self) -> ImageGenerator:
        """The networks, ready to draw."""
        return self.model.load(self.fast, self.modulation_bytes, self.compiled)

    def source(self, say: Callable[[str], None]) -> SampledImages:
        """The networks and the sampler's settings; `say` as there."""
        generator = self.load()
        if generator.modulation_bytes < self.modulation_bytes:
            say(
                f"modulations: at most {format_bytes(generator.modulation_bytes)} are kept, half of what is free on the GPU; "
                "what exceeds them is computed at each evaluation"
            )
        # From the first batch on: a last, short one may be all that is left to draw.
        return SampledImages(generator, self.sampler, self.model.precision, say, whole=self.batch)

    def process_bytes(self) -> float:
        """Memory of one process that draws, roughly; nothing is loaded."""
        runs = [self.model.run, *([self.model.vae] if self.model.vae else [])]
        return process_bytes(sum(r.weights.stat().st_size for r in runs), self.batch, self.modulation_bytes)

    def rough_seconds(self) -> float:
        """What an image takes one process, with all its threads: of the smallest network on a server's CPU, so rather more."""
        return _EVALUATION_SECONDS * (self.sampler.nfe + _DECODING_EVALUATIONS)


def sampler_for(model: TrainedModel, nfe: int, solver: str, sigma_max: float | None = None) -> SamplerSettings:
    """Sampler with `nfe` evaluations; `solver` may be auto, which may bring noise levels. Raises as `choose_solver`.

    Args:
        sigma_max: σ to start from, in units of the clean data; None: the formulation's.
    """
    choice = choose_solver(model.run, solver, nfe, model.spec.solvers, sigma_max)
    # Of a network with discrete levels the nearest one, which is what is recorded.
    start = start_of(model.run, sigma_max)
    return default_settings(model.spec.precond, nfe, choice.solver, choice.sigmas, start)


def shown_settings(identity: Mapping[str, Any], maps: MapFolder, target: Target) -> dict[str, Any]:
    """What settings.json tells of a dataset: its identity and where its parts lie."""
    places = {"maps": maps.path, "dataset": target.raw, "classification": target.classification}
    return {**identity, **places}
