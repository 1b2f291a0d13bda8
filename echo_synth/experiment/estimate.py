"""How long a sweep will take on this machine, and what disk and memory: from short measurements, and from its own stages once some are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.downstream import nnunet
from echo_synth.downstream.classifier import ClassifierSettings, estimate_classifier
from echo_synth.estimate import Estimate
from echo_synth.experiment.inputs import SweepInputs
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell, Stage, StageKind, in_order
from echo_synth.experiment.workspace import Workspace
from echo_synth.generation.engine import default_settings
from echo_synth.generation.estimate import estimate_generation
from echo_synth.generation.manifest import plan_images
from echo_synth.generation.sources import choose_model

_START_SECONDS = 15.0  # of a command: libraries, reading
_RENDERING_SECONDS = 0.1  # of an image by physics, on one core
_GIBIBYTE = float(1 << 30)
# One training image of a segmenter at full width, forward and back: measured on two cores of 2.5 GHz.
_SEGMENTER_SECONDS = {"subpixel": 1.3, "pooled": 1.0, "planned": 5.0}
GPU_FACTOR = 50.0  # a guess: no training was timed on a GPU yet
_PREPARED_BYTES = 800_000.0  # of a training case: preprocessed for nnU-Net
_HELD_OUT_SECONDS = {"predict": 1.0, "evaluate": 0.5}  # of an image
_JUDGED_SECONDS, _COMPARED_SECONDS = 1.5, 0.3  # of an image that is judged, of a real one that it is compared with
_CHEAP = Estimate(_START_SECONDS, 1e6, _GIBIBYTE)


def segmenter_images(stage: Stage) -> int:
    """Images that the segmenter of a stage sees."""
    budget = nnunet.trainer_budget(str(stage.config["trainer"]))
    epochs, iterations = stage.config.get("epochs"), stage.config.get("iterations")
    return int(epochs or budget.epochs) * int(iterations or budget.iterations) * budget.batch


def images_of(spec: SweepSpec, stage: Stage) -> int:
    """Images in the dataset that a stage needs, as far as its row says; else as many as the sweep's datasets have."""
    data = stage.needs.get("data")
    return max(1, int((data.config.get("count") if data else None) or spec.count))


def classifier_images(spec: SweepSpec, stage: Stage) -> int:
    """Images that the classifier of a stage sees."""
    return images_of(spec, stage) * int(stage.config["epochs"] or specs.classifier().epochs)


def estimate_segmenter(spec: SweepSpec, stage: Stage, device: str) -> Estimate:
    """Of training a segmenter, from what an image took elsewhere."""
    return guess_segmenter(str(stage.config["trainer"]), segmenter_images(stage), images_of(spec, stage), device)


def guess_segmenter(trainer: str, seen: int, cases: int, device: str) -> Estimate:
    """Of planning for and training a segmenter that sees `seen` images, repeats counted, of a dataset of `cases`; nothing is measured."""
    budget = nnunet.trainer_budget(trainer)
    each = _SEGMENTER_SECONDS[budget.network] * budget.width**2
    faster = GPU_FACTOR if device.startswith("cuda") else 1.0
    seconds = 4 * _START_SECONDS + each * seen / faster
    return Estimate(seconds, cases * _PREPARED_BYTES + 0.2 * _GIBIBYTE, 3 * _GIBIBYTE)


@dataclass(frozen=True)
class SweepEstimator:
    """Estimates stages of a sweep.

    Args:
        spec, inputs, workspace: of the sweep.
        device: to compute on.
    """

    spec: SweepSpec
    inputs: SweepInputs
    workspace: Workspace
    device: str

    def of(self, cells: Sequence[Cell]) -> Estimate:
        """What is left to do of `cells`: seconds and disk in all, memory of the largest stage."""
        stages = in_order([s for cell in cells for s in cell.stages])
        pending = [s for s in stages if not self.workspace.done(s)]
        measured = self._measured([s for s in stages if self.workspace.done(s)])
        known: dict[str, Estimate] = {}
        parts = [self._stage(s, measured, known) for s in pending]
        return Estimate(
            sum(p.seconds for p in parts),
            sum(p.disk_bytes for p in parts),
            max((p.memory_bytes for p in parts), default=0.0),
        )

    def is_small(self, cells: Sequence[Cell]) -> bool:
        """Whether it is surely short, without measuring: few evaluations to draw, few images to train on."""
        stages = [s for cell in cells for s in cell.stages]
        data = [s.config for s in stages if s.kind == "data"]
        evaluations = sum(int(d.get("count") or 0) * int(d.get("nfe") or 0) for d in data)
        return evaluations < 1000 and sum(segmenter_images(s) for s in stages if s.kind == "segmenter") < 1000

    def _measured(self, done: Sequence[Stage]) -> Mapping[StageKind, float]:
        """Mean seconds of finished stages by kind; drawing is left out, whose stages differ."""
        kinds = {s.kind for s in done} - {"data"}
        seconds = {kind: [t for s in done if s.kind == kind and (t := self.workspace.seconds(s))] for kind in kinds}
        return {kind: fmean(values) for kind, values in seconds.items() if values}

    def _stage(self, stage: Stage, measured: Mapping[StageKind, float], known: dict[str, Estimate]) -> Estimate:
        by_kind: Mapping[StageKind, Callable[[Stage], Estimate]] = {
            "data": self._data,
            "segmenter": self._segmenter,
            "classifier": self._classifier,
            "quality": self._quality,
            "predict": self._held_out,
            "evaluate": self._held_out,
        }
        same = f"{stage.kind} {sorted((k, str(v)) for k, v in stage.config.items() if k not in ('seed', 'maps'))}"
        if same not in known:
            known[same] = by_kind[stage.kind](stage)
        return replace(known[same], seconds=measured.get(stage.kind, known[same].seconds))

    def _data(self, stage: Stage) -> Estimate:
        config = stage.config
        if config["kind"] == "bmode":
            return replace(_CHEAP, seconds=_START_SECONDS + _RENDERING_SECONDS * int(config["count"] or 1))
        if config["kind"] != "synthetic":
            return _CHEAP
        checkpoint = self.inputs.checkpoints[str(config["weights"])]
        source = choose_model(str(config["model"]), checkpoint, None, self.device, str(config.get("precision", "auto")))
        solver = str(config["solver"])
        settings = default_settings(
            source.spec.precond, int(config["nfe"] or 1), "heun" if solver == "auto" else solver
        )
        maps = open_maps(self.inputs.maps)
        rows = plan_images(maps.index, int(config["count"] or 1), 0)
        drawn = estimate_generation(source.load(), settings, maps, rows, int(config["batch"] or 1))
        return replace(drawn, seconds=drawn.seconds + _START_SECONDS)

    def _segmenter(self, stage: Stage) -> Estimate:
        return estimate_segmenter(self.spec, stage, self.device)

    def _classifier(self, stage: Stage) -> Estimate:
        preset, config = specs.classifier(), stage.config
        training = specs.TrainingSpec(
            images=classifier_images(self.spec, stage),
            batch=preset.batch,
            optimizer="adam",
            lr=preset.lr,
            clip_norm=5.0,
            ema_std=0.0,
        )
        side = int(config["resolution"] or preset.resolution)
        return estimate_classifier(ClassifierSettings(preset.architecture, side, training, 0, "fp32", self.device))

    def _quality(self, stage: Stage) -> Estimate:
        judged, real = int(stage.config["count"] or 0), len(self.inputs.real.cases())
        seconds = 4 * _START_SECONDS + judged * _JUDGED_SECONDS + real * _COMPARED_SECONDS
        return Estimate(seconds, judged * 20_000.0, 2 * _GIBIBYTE)

    def _held_out(self, stage: Stage) -> Estimate:
        cases = self.inputs.real.cases()
        images = int((cases["split"] == "test").sum())
        return Estimate(_START_SECONDS + images * _HELD_OUT_SECONDS[stage.kind], images * 20_000.0, 2 * _GIBIBYTE)
