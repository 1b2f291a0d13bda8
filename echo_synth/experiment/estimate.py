"""How long a sweep will take on this machine, and what disk and memory: from short measurements, and from its own stages once some are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.downstream import nnunet
from echo_synth.downstream.classifier import ClassifierSettings, estimate_classifier
from echo_synth.estimate import IMAGE_BYTES, Estimate
from echo_synth.experiment.inputs import SweepInputs
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell, Stage, StageKind, in_order
from echo_synth.experiment.workspace import Workspace
from echo_synth.generation.engine import default_settings
from echo_synth.generation.estimate import estimate_generation
from echo_synth.generation.manifest import plan_images
from echo_synth.generation.sources import choose_model

_START_SECONDS = 15.0  # of a command: libraries, reading
_WITHOUT_NETWORK_SECONDS = {"bmode": 0.1, "noise": 0.04}  # of an image, on one core
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
    """Images in the dataset that a stage makes or needs, as far as its row says (of one made of another: in that one); else as many
    as the sweep's datasets have."""
    data = stage if stage.kind == "data" else stage.needs.get("data")
    data = data.needs.get("base", data) if data else None
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
        known: dict[str, Estimate] = {}
        kinds = {s.kind for s in pending}
        pace = self._pace([s for s in stages if s.kind in kinds and self.workspace.done(s)], known)
        parts = [self._stage(s, pace, known) for s in pending]
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

    def _pace(self, done: Sequence[Stage], known: dict[str, Estimate]) -> Mapping[StageKind, float]:
        """What finished stages took, by kind, as a share of what they were estimated to take; drawing is left out, which is measured."""
        took: dict[StageKind, list[tuple[float, float]]] = {}
        for stage in done:
            seconds = self.workspace.seconds(stage) if stage.kind != "data" else None
            if seconds:
                took.setdefault(stage.kind, []).append((seconds, self._stage(stage, {}, known).seconds))
        return {kind: sum(s for s, _ in pairs) / sum(e for _, e in pairs) for kind, pairs in took.items()}

    def _stage(self, stage: Stage, pace: Mapping[StageKind, float], known: dict[str, Estimate]) -> Estimate:
        by_kind: Mapping[StageKind, Callable[[Stage], Estimate]] = {
            "data": self._data,
            "segmenter": self._segmenter,
            "classifier": self._classifier,
            "quality": self._quality,
            "predict": self._held_out,
            "evaluate": self._held_out,
        }
        settings = sorted((k, str(v)) for k, v in stage.config.items() if k not in ("seed", "maps"))
        same = f"{stage.kind} {settings} {images_of(self.spec, stage)}"
        if same not in known:
            known[same] = by_kind[stage.kind](stage)
        return replace(known[same], seconds=known[same].seconds * pace.get(stage.kind, 1.0))

    def _data(self, stage: Stage) -> Estimate:
        config = stage.config
        images = images_of(self.spec, stage)
        if each := _WITHOUT_NETWORK_SECONDS.get(str(config["kind"])):
            return replace(_CHEAP, seconds=_START_SECONDS + each * images, disk_bytes=float(images * IMAGE_BYTES))
        if config["kind"] == "filtered":  # a segmenter reads all images of its base
            return replace(_CHEAP, seconds=2 * _START_SECONDS + _HELD_OUT_SECONDS["predict"] * images)
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
