"""What to type for a stage: the commands of `echosynth` that carry it out, and the folders of nnU-Net that they use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from echo_synth.data import nnunet_raw
from echo_synth.experiment.inputs import SweepInputs
from echo_synth.experiment.stages import DERIVED_ID, DRAWN_ID, DRAWN_KINDS, IMPORTED, Setting, Stage
from echo_synth.experiment.workspace import Workspace
from echo_synth.home import home
from echo_synth.runs.folder import STATE

Command = list[str]


@dataclass(frozen=True)
class StageCommands:
    """The commands of stages.

    Args:
        workspace: where stages read and write.
        inputs: the maps and weights to draw with.
        device: for every command that computes.
    """

    workspace: Workspace
    inputs: SweepInputs
    device: str

    def of(self, stage: Stage) -> list[Command]:
        """The commands of a stage, in order."""
        if stage.kind == "data":
            return self._data(stage)
        by_kind = {
            "segmenter": self._train_segmenter,
            "predict": self._predict,
            "classifier": self._train_classifier,
            "quality": self._quality,
            "evaluate": self._evaluate,
        }
        return [by_kind[stage.kind](stage)]

    def linked(self, stage: Stage) -> list[Path]:
        """Datasets that the stage's commands expect beside what they make, in its own folder."""
        if stage.kind == "quality":
            return [self.workspace.real.path, self._synthetic(stage.needs["data"])]
        if stage.kind != "data" or stage.config["kind"] in DRAWN_KINDS:
            return []
        if stage.config["kind"] == IMPORTED:
            return [self._synthetic(stage)]
        base = [self.workspace.drawn(stage.needs["base"]).path] if "base" in stage.needs else []
        return [self.workspace.real.path, *base]

    def _synthetic(self, data: Stage) -> Path:
        """The raw dataset of a data stage that was drawn or imported."""
        if data.config["kind"] == IMPORTED:
            return nnunet_raw.find(self.workspace.dataset_id(data)).path
        return self.workspace.drawn(data).path

    def environment(self, stage: Stage) -> dict[str, str]:
        """nnU-Net's folders of this stage: whose data it reads, whose results it uses."""
        segmenter = _segmenter_of(stage)
        data = segmenter.needs["data"] if stage.kind == "predict" else _data_of(stage)
        folder = self.workspace.folder
        return {
            "ECHOSYNTH_HOME": str(home()),
            "nnUNet_raw": str(folder(data)),
            "nnUNet_preprocessed": str(folder(segmenter) / "preprocessed"),
            "nnUNet_results": str(folder(segmenter) / "results"),
        }

    def _data(self, stage: Stage) -> list[Command]:
        kind = stage.config["kind"]
        if kind == "synthetic":
            return [self._generate(stage)]
        if kind == "bmode":
            return [["generate", "--model=bmode", *self._without_network(stage)]]
        if kind == "noise":
            return [["noise-dataset", *self._without_network(stage)]]
        if kind == "filtered":
            return [self._filter(stage)]
        if kind == IMPORTED:
            return []  # it is there
        if kind == "mix" or stage.config["patients"] is not None:
            return [self._mix(stage)]
        return []  # all real patients: the converted dataset itself

    def _generate(self, stage: Stage) -> Command:
        same_names = ("model", "nfe", "solver", "seed", "count", "batch", "precision")
        return [
            "generate",
            *_options(stage.config, same_names),
            *(["--compile"] if stage.config.get("compile") else []),
            *([f"--sigma-max={stage.config['sigma_max']}"] if "sigma_max" in stage.config else []),
            f"--maps={self.inputs.maps}",
            f"--checkpoint={self.inputs.checkpoints[str(stage.config['weights'])]}",
            *self._targets(stage),
            f"--device={self.device}",
        ]

    def _without_network(self, stage: Stage) -> Command:
        return [*_options(stage.config, ("count", "seed")), f"--maps={self.inputs.maps}", *self._targets(stage)]

    def _targets(self, stage: Stage) -> Command:
        return [f"--dataset-id={DRAWN_ID}", f"--classification={self.workspace.images(stage)}"]

    def _filter(self, stage: Stage) -> Command:
        return [
            "quality",
            f"--dataset-id={DRAWN_ID}",
            f"--real={self.workspace.real.id}",
            f"--trainer={stage.needs['judge'].config['trainer']}",
            "--perceptual=none",
            "--no-features",
            f"--low-agreement={stage.config['low_agreement']}",
            f"--drop={DERIVED_ID}",
            f"--out={self.workspace.folder(stage) / 'quality'}",
            "--overwrite",
            f"--device={self.device}",
        ]

    def _quality(self, stage: Stage) -> Command:
        needs, space = stage.needs, self.workspace
        seen = f"--classifier={space.classifier_run(needs['classifier'])}" if "classifier" in needs else "--no-features"
        return [
            "quality",
            f"--dataset-id={space.dataset_id(needs['data'])}",
            f"--real={space.real.id}",
            *([f"--trainer={needs['judge'].config['trainer']}"] if "judge" in needs else []),
            seen,
            *_options(stage.config, ("count", "perceptual", "rate")),
            f"--out={space.result(stage)}",
            "--overwrite",
            f"--device={self.device}",
        ]

    def _mix(self, stage: Stage) -> Command:
        synthetic = [f"--synthetic={DRAWN_ID}"] if stage.config["kind"] == "mix" else []
        return [
            "mix-datasets",
            f"--real={self.workspace.real.id}",
            f"--dataset-id={DERIVED_ID}",
            *synthetic,
            *_options(stage.config, ("share", "patients", "seed")),
            "--overwrite",
        ]

    def _train_segmenter(self, stage: Stage) -> Command:
        return [
            "train-segmenter",
            f"--dataset-id={self.workspace.dataset_id(stage.needs['data'])}",
            *_options(stage.config, ("trainer", "epochs", "iterations", "seed")),
            *([f"--init={self.workspace.trained(stage.needs['init'])}"] if "init" in stage.needs else []),
            f"--device={self.device}",
        ]

    def _predict(self, stage: Stage) -> Command:
        segmenter = stage.needs["segmenter"]
        return [
            "predict-segmenter",
            f"--dataset-id={self.workspace.dataset_id(segmenter.needs['data'])}",
            f"--trainer={segmenter.config['trainer']}",
            f"--images={self.workspace.real.path / 'imagesTs'}",
            f"--out={self.workspace.predictions(stage)}",
            "--overwrite",
            f"--device={self.device}",
        ]

    def _train_classifier(self, stage: Stage) -> Command:
        run = self.workspace.classifier_run(stage)
        return [
            "train-classifier",
            str(self.workspace.images(stage.needs["data"])),
            f"--out={run}",
            *_options(stage.config, ("epochs", "resolution", "lr")),
            *([f"--init={self.workspace.classifier_run(stage.needs['init'])}"] if "init" in stage.needs else []),
            "--resume" if (run / STATE).is_file() else "--overwrite",
            f"--device={self.device}",
        ]

    def _evaluate(self, stage: Stage) -> Command:
        needs, space = stage.needs, self.workspace
        words = [
            "bootstrap-eval",
            f"--repeats={stage.config['repeats']}",
            f"--out={space.result(stage)}",
            "--overwrite",
        ]
        if "predict" in needs:
            words.append(f"--predictions={space.predictions(needs['predict'])}")
            words.append(f"--references={space.real.path / 'labelsTs'}")
        if "baseline" in needs:
            words.append(f"--baseline={space.predictions(needs['baseline'])}")
        if "classifier" in needs:
            words.append(f"--classifier={space.classifier_run(needs['classifier'])}")
            words.append(f"--images={space.real_images}")
        return words


def _options(config: Mapping[str, Setting], names: tuple[str, ...]) -> Command:
    """--name=value for those of `names` that the stage settles."""
    return [f"--{name}={config[name]}" for name in names if config.get(name) is not None]


def _data_of(stage: Stage) -> Stage:
    """Whose folder is nnUNet_raw: of a quality stage its own, where the dataset lies beside the real one."""
    return stage if stage.kind in ("data", "quality") else stage.needs.get("data", stage)


def _segmenter_of(stage: Stage) -> Stage:
    return stage if stage.kind == "segmenter" else stage.needs.get("segmenter", stage.needs.get("judge", stage))
