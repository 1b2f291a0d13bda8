"""The whole chain on simulated patients, small and quick, each stage as the command a user would type."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_synth import specs
from echo_synth.downstream.nnunet import trainer_budget
from echo_synth.errors import RunError
from echo_synth.experiment.shell import run_command
from echo_synth.files import write_json
from echo_synth.home import NNUNET_FOLDERS
from echo_synth.interrupt import continue_with, resume_hint
from echo_synth.runs.folder import STATE

REAL, SYNTHETIC = 501, 601
TRAINER = "nnUNetTrainerEchoSynth_cpu"
_FIXED_MINUTES = 3.5  # go to what does not scale with the training lengths
_FULL_MINUTES = 12.0  # of the lengths below, measured on two cores
_LEAST_SHARE = 0.02  # of these lengths, with next to no time
_SYNTHETIC_IMAGES, _SEGMENTER_ITERATIONS, _FEWEST_ITERATIONS = 256, 480, 10
_PATIENTS, _MINUTES_OF_ALL_PATIENTS, _FEWEST_PATIENTS = 40, 6.0, 8  # with less time, fewer are simulated


@dataclass(frozen=True)
class DemoStage:
    """A stage: its name, the command to type, and what exists once it is done (None: the command sees to that itself)."""

    name: str
    command: Callable[[], list[str]]
    product: Path | None = None


@dataclass(frozen=True)
class Demo:
    """The stages in order. Run again after a kill, finished ones are kept and the rest goes on.

    Args:
        out: folder that becomes ECHOSYNTH_HOME; nothing is written outside it.
        minutes: scales the training lengths.
        seed: of everything.
    """

    out: Path
    minutes: float
    seed: int

    def run(self, settings: Mapping[str, object], say: Callable[[str], None]) -> dict[str, float]:
        """All stages; returns the seconds of each by name. Raises RunError for a stage that failed."""
        write_json(self.out / "settings.json", dict(settings))
        seconds: dict[str, float] = {}
        stages = self.stages()
        for i, stage in enumerate(stages):
            say(f"[{i + 1}/{len(stages)}] {stage.name}")
            start = time.monotonic()
            if stage.product is None or not stage.product.exists():
                finished = f"{i} of {len(stages)} stages are done" if i else ""
                with resume_hint(continue_with(), finished):
                    self._run(stage)
            seconds[stage.name] = time.monotonic() - start
        return seconds

    def _run(self, stage: DemoStage) -> None:
        status = run_command(stage.command(), self._environment())
        if status:
            reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise RunError(f"demo: '{stage.name}' {reason}; its own message is above. Run the demo again to go on")

    def _environment(self) -> dict[str, str]:
        nnunet = {name: str(self.out / "nnunet" / name.removeprefix("nnUNet_")) for name in NNUNET_FOLDERS}
        return {"ECHOSYNTH_HOME": str(self.out), **nnunet}

    def stages(self) -> list[DemoStage]:
        """All stages, in order."""
        out = self.out
        return [
            DemoStage("simulate patients", self._phantom, out / "phantom"),
            DemoStage("convert", self._convert, out / "nnunet" / "raw" / f"Dataset{REAL}_PHANTOM"),
            DemoStage("condition maps", self._maps, out / "maps" / f"Dataset{REAL}_PHANTOM"),
            DemoStage("train Γ-VAE", self._vae),
            DemoStage("train EDM-L64", self._diffusion),
            DemoStage("generate", self._generate),
            DemoStage("nnU-Net: plan and train", self._segmenter),
            DemoStage("nnU-Net: predict", self._predict, out / "predictions" / "demo"),
            DemoStage("train view classifier", self._classifier),
            DemoStage("evaluate", self._evaluate),
            DemoStage("report", lambda: ["report", str(out)]),
        ]

    @property
    def expected_minutes(self) -> float:
        """About how long it takes on two cores: not less than what the shortest trainings leave."""
        return max(self.minutes, _FIXED_MINUTES + _LEAST_SHARE * (_FULL_MINUTES - _FIXED_MINUTES))

    @property
    def _share(self) -> float:
        """Of the full training lengths."""
        return max(_LEAST_SHARE, (self.minutes - _FIXED_MINUTES) / (_FULL_MINUTES - _FIXED_MINUTES))

    @property
    def _patients(self) -> int:
        return max(_FEWEST_PATIENTS, min(_PATIENTS, round(_PATIENTS * self.minutes / _MINUTES_OF_ALL_PATIENTS)))

    def _images(self, full: int) -> str:
        return f"--images={max(16, round(full * self._share))}"

    def _epochs(self, full: int) -> str:
        return f"--epochs={max(1, round(full * self._share))}"

    def _phantom(self) -> list[str]:
        return ["phantom", str(self.out / "phantom"), f"--patients={self._patients}", self._seed]

    def _convert(self) -> list[str]:
        source = self.out / "phantom"
        return [
            "convert-camus",
            str(source),
            f"--dataset-id={REAL}",
            "--name=PHANTOM",
            f"--split={source / 'database_split'}",
        ]

    def _maps(self) -> list[str]:
        return ["make-maps", f"--dataset-id={REAL}", "--recipe=anatomy", "--repeats=2", self._seed]

    def _vae(self) -> list[str]:
        run = self.out / "runs" / "vae"
        return [
            "train-vae",
            "--model=gamma-vae-64",
            "--size=light",  # as the bundled weights
            f"--dataset-id={REAL}",
            self._images(1200),
            "--lr=2e-4",
            self._seed,
            f"--init={specs.root() / 'bundled' / 'gamma-vae-64'}",
            *_in(run),
        ]

    def _diffusion(self) -> list[str]:
        runs = self.out / "runs"
        return [
            "train",
            "--model=edm-l64",
            f"--dataset-id={REAL}",
            self._images(4000),
            "--lr=1.2e-3",
            "--copies=2",
            self._seed,
            f"--vae={runs / 'vae'}",
            f"--init={specs.root() / 'bundled' / 'edm-l64'}",
            *_in(runs / "edm-l64"),
        ]

    def _generate(self) -> list[str]:
        checkpoint = f"--checkpoint={self.out / 'runs' / 'edm-l64'}"
        count = f"--count={max(16, round(_SYNTHETIC_IMAGES * self._share))}"
        return ["generate", "--model=edm-l64", "--nfe=20", count, checkpoint, f"--dataset-id={SYNTHETIC}", self._seed]

    def _segmenter(self) -> list[str]:
        iterations = max(_FEWEST_ITERATIONS, round(_SEGMENTER_ITERATIONS * self._share))
        epochs = max(1, round(iterations / trainer_budget(TRAINER).iterations))
        lengths = [f"--epochs={epochs}", f"--iterations={round(iterations / epochs)}"]
        return ["train-segmenter", f"--dataset-id={SYNTHETIC}", f"--trainer={TRAINER}", *lengths]

    def _predict(self) -> list[str]:
        return [
            "predict-segmenter",
            f"--dataset-id={SYNTHETIC}",
            f"--trainer={TRAINER}",
            f"--images={self._dataset(REAL) / 'imagesTs'}",
            f"--out={self.out / 'predictions' / 'demo'}",
        ]

    def _classifier(self) -> list[str]:
        lengths = [self._epochs(3), "--resolution=96", "--lr=1e-3", self._seed]
        return [
            "train-classifier",
            str(self._classification(SYNTHETIC)),
            *lengths,
            *_in(self.out / "runs" / "classifier"),
        ]

    def _evaluate(self) -> list[str]:
        return [
            "bootstrap-eval",
            f"--predictions={self.out / 'predictions' / 'demo'}",
            f"--classifier={self.out / 'runs' / 'classifier'}",
            f"--images={self._classification(REAL)}",
            f"--out={self.out / 'evaluation' / 'demo'}",
            "--overwrite",
            self._seed,
        ]

    @property
    def _seed(self) -> str:
        return f"--seed={self.seed}"

    def _dataset(self, dataset_id: int) -> Path:
        return next((self.out / "nnunet" / "raw").glob(f"Dataset{dataset_id}_*"))

    def _classification(self, dataset_id: int) -> Path:
        return self.out / "datasets" / "classification" / self._dataset(dataset_id).name


def _in(run: Path) -> Sequence[str]:
    """Train in `run`, or continue what began there."""
    return [f"--out={run}", *(["--resume"] if (run / STATE).is_file() else [])]
