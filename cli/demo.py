"""`echosynth demo`: every stage on simulated patients, each through the same command a user would type."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cli.common import say
from echo_synth.progress import format_seconds

REAL, SYNTHETIC = 501, 601
TRAINER = "nnUNetTrainerEchoSynth_cpu"


class Demo:
    """The stages in order. Run again after a kill, finished ones are kept and the rest goes on.

    Args:
        out: folder that becomes ECHOSYNTH_HOME; nothing is written outside it.
        minutes: scales the training lengths; 12 was measured on two cores.
        seed: of everything.
    """

    def __init__(self, out: Path, minutes: float, seed: int) -> None:
        self.out, self.seed = out, seed
        self.share = max(0.02, (minutes - 3.5) / 8.5)  # 3.5 minutes go to what does not scale
        self.seconds: dict[str, float] = {}
        os.environ["ECHOSYNTH_HOME"] = str(out)
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(out / "nnunet" / name.removeprefix("nnUNet_"))

    def run(self, settings: Mapping[str, Any]) -> None:
        """All stages."""
        from echo_synth.files import write_json

        write_json(self.out / "settings.json", dict(settings))
        stages: list[tuple[str, Callable[[], None]]] = [
            ("simulate patients", self._phantom), ("convert", self._convert), ("condition maps", self._maps),
            ("train Γ-VAE", self._vae), ("train EDM-L64", self._diffusion), ("generate", self._generate),
            ("nnU-Net: plan and train", self._segmenter), ("nnU-Net: predict", self._predict),
            ("train view classifier", self._classifier), ("evaluate", self._evaluate), ("report", self._report),
        ]  # fmt: skip
        for i, (name, stage) in enumerate(stages):
            say(f"[{i + 1}/{len(stages)}] {name}")
            start = time.monotonic()
            stage()
            self.seconds[name] = time.monotonic() - start

    def lines(self) -> list[str]:
        """Seconds of each stage."""
        total = sum(self.seconds.values())
        return [f"{name}: {format_seconds(s)}" for name, s in self.seconds.items()] + [
            f"total: {format_seconds(total)}"
        ]

    def _length(self, images: int) -> int:
        return max(16, round(images * self.share))

    def _phantom(self) -> None:
        from cli.data_commands import phantom

        if not (self.out / "phantom").is_dir():
            phantom(self.out / "phantom", patients=40, seed=self.seed)

    def _convert(self) -> None:
        from cli.data_commands import convert_camus
        from echo_synth.data import nnunet_raw

        if not nnunet_raw.existing(REAL):
            convert_camus(
                self.out / "phantom", REAL, name="PHANTOM", split=str(self.out / "phantom" / "database_split")
            )

    def _maps(self) -> None:
        from cli.data_commands import make_maps

        if not (self.out / "maps" / f"Dataset{REAL}_PHANTOM").is_dir():
            make_maps(REAL, repeats=2, seed=self.seed)

    def _vae(self) -> None:
        from cli.train_commands import train_vae
        from echo_synth.specs import root

        folder = self.out / "runs" / "vae"
        train_vae(
            "gamma-vae-64", REAL, out=folder, images=self._length(1200), lr=2e-4, seed=self.seed, init=root() / "bundled" / "gamma-vae-64",
            resume=(folder / "state.safetensors").is_file(),
        )  # fmt: skip

    def _diffusion(self) -> None:
        from cli.train_commands import train
        from echo_synth.specs import root

        folder = self.out / "runs" / "edm-l64"
        train(
            "edm-l64", REAL, vae=self.out / "runs" / "vae", out=folder, images=self._length(4000), lr=3e-4, copies=2, seed=self.seed,
            init=root() / "bundled" / "edm-l64", resume=(folder / "state.safetensors").is_file(),
        )  # fmt: skip

    def _generate(self) -> None:
        from cli.generate_commands import generate

        generate("edm-l64", 20, checkpoint=self.out / "runs" / "edm-l64", dataset_id=SYNTHETIC, seed=self.seed)

    def _segmenter(self) -> None:
        from cli.downstream_commands import train_segmenter

        train_segmenter(SYNTHETIC, TRAINER, epochs=max(1, round(4 * self.share)), iterations=25)

    def _predict(self) -> None:
        from cli.downstream_commands import predict_segmenter
        from echo_synth.data import nnunet_raw

        target = self.out / "predictions" / "demo"
        if not target.is_dir():
            predict_segmenter(SYNTHETIC, nnunet_raw.find(REAL).path / "imagesTs", TRAINER, out=target)

    def _classifier(self) -> None:
        from cli.downstream_commands import train_classifier

        folder = self.out / "runs" / "classifier"
        epochs = max(1, round(3 * self.share))
        train_classifier(
            self._pictures(SYNTHETIC), out=folder, epochs=epochs, resolution=96, lr=1e-3, seed=self.seed,
            resume=(folder / "state.safetensors").is_file(),
        )  # fmt: skip

    def _evaluate(self) -> None:
        from cli.evaluate_commands import bootstrap_eval

        bootstrap_eval(
            self.out / "predictions" / "demo", classifier=self.out / "runs" / "classifier", images=self._pictures(REAL),
            seed=self.seed, out=self.out / "evaluation" / "demo",
        )  # fmt: skip

    def _report(self) -> None:
        from cli.report_commands import report

        report(self.out)

    def _pictures(self, dataset_id: int) -> Path:
        from echo_synth.data import nnunet_raw

        return self.out / "datasets" / "classification" / nnunet_raw.find(dataset_id).name
