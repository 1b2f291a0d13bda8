"""What images are generated with: the run, its Γ-VAE, and the default maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.device import drawing_precision, training_device
from echo_synth.errors import RunError
from echo_synth.files import listed
from echo_synth.generation.engine import MODULATION_BYTES, ImageGenerator, SamplerSettings
from echo_synth.home import maps
from echo_synth.runs.find import find_diffusion, find_vae_of
from echo_synth.runs.folder import DiffusionRun, VaeRun, open_run
from echo_synth.specs import DiffusionSpec


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and where it computes.

    Attributes:
        spec: the model's preset.
        run: its weights.
        vae: the Γ-VAE of its latents; None for a model on pixels.
        device: cpu, cuda or cuda:N.
        precision: as `drawing_precision` gives it.
        texture: whether the Γ-VAE's texture is added to the images.
    """

    spec: DiffusionSpec
    run: DiffusionRun
    vae: VaeRun | None
    device: str
    precision: str
    texture: bool = False

    def with_texture(self, asked: str) -> TrainedModel:
        """This model with --texture on, off, or auto: on if its Γ-VAE has one. Raises RunError if on is not possible."""
        known = self.vae is not None and self.vae.texture_hash() is not None
        if asked == "on" and not known:
            holder = self.vae.folder if self.vae else f"{self.spec.title}, a model on pixels,"
            raise RunError(f"--texture on: {holder} has none; train-vae of this version measures it at its end")
        return replace(self, texture=known and asked != "off")

    def load(
        self, fast: bool = True, modulation_bytes: int = MODULATION_BYTES, compiled: bool = False
    ) -> ImageGenerator:
        """The networks, ready to generate; arguments as for `ImageGenerator`."""
        vae = self.vae.load() if self.vae else None
        texture = self.vae.load_texture() if self.vae and self.texture else None
        where = (self.device, self.precision)
        return ImageGenerator(self.run.load(), vae, *where, fast, modulation_bytes, compiled, texture)


def choose_model(
    model: str, checkpoint: Path | None, vae: Path | None, device: str, precision: str, nfe: int | None = None
) -> TrainedModel:
    """Choose what the options do not give: the newest run, its own Γ-VAE, the device at hand; `nfe` as in `find_run`.

    Raises SpecError or RunError that names the option.
    """
    spec = specs.diffusion_model(model)
    device = training_device(device)
    precision = drawing_precision(precision, device)
    run = find_diffusion(model, checkpoint, nfe)
    return TrainedModel(spec, run, vae_run(run, spec.vae, vae), device, precision)


def vae_run(run: DiffusionRun, vae_model: str | None, folder: Path | None = None) -> VaeRun | None:
    """The Γ-VAE that `run` was trained with, in `folder` if given; None for a model on pixels (`vae_model` None).

    Raises RunError when it is not found, or when `folder` holds another one.
    """
    if vae_model is None:
        return None
    if folder is None:
        return find_vae_of(run.description, vae_model, run.folder)
    vae = open_run(folder, "vae")
    if vae.hash() != run.description.vae:
        raise RunError(f"{folder}: its weights are {vae.hash()}, {run.folder} was trained on {run.description.vae}")
    return vae


@dataclass
class SampledImages:
    """An `ImageSource`: a generator with the settings of its sampler.

    Where the GPU's memory is too small for a batch, it is drawn in halves, now and from then on.

    Attributes:
        say: is told when that happens.
        most: images at once; None for as many as are asked for.
        whole: size of the batches of a compiled generator; smaller ones are filled up, or it would be compiled again.
    """

    generator: ImageGenerator
    settings: SamplerSettings
    precision: str
    say: Callable[[str], None] = lambda _: None
    most: int | None = None
    whole: int = 0

    @property
    def device(self) -> str:
        return self.generator.device

    @property
    def evaluations(self) -> int:
        return self.settings.nfe

    def draw(
        self,
        tissues: NDArray[np.uint8],
        frames: NDArray[np.uint8],
        seed: int,
        indices: Sequence[int],
        on_evaluation: Callable[[], None],
    ) -> NDArray[np.uint8]:
        """See `run.ImageSource`. Raises torch.OutOfMemoryError when not even one image fits."""
        parts: list[NDArray[np.uint8]] = []
        start = 0
        while start < len(indices):
            part = list(range(start, min(start + (self.most or len(indices)), len(indices))))
            rows = self._filled(part)
            tick = on_evaluation if start == 0 else _nothing  # the bar counts evaluations of the whole batch
            try:
                chosen = (tissues[rows], frames[rows], seed, [indices[i] for i in rows])
                parts.append(self.generator.draw(*chosen, self.settings, tick)[: len(part)])
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.most, self.whole = len(part) // 2, 0
            else:
                start += len(parts[-1])
                continue
            self._say_halved()  # not in the handler, whose traceback holds what the GPU has yet to free
        return np.concatenate(parts)

    def _filled(self, rows: list[int]) -> list[int]:
        """`rows` of a batch as the generator takes them: the last one again, until a compiled one has its usual number."""
        if not self.generator.compiled:
            return rows
        self.whole = max(self.whole, len(rows))
        return rows + rows[-1:] * (self.whole - len(rows))

    def _say_halved(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self.say(
            f"the GPU's memory is too small for this batch: going on with {self.most} images at once, which may change "
            f"their rounding; --batch {self.most} draws a whole dataset so"
        )


def _nothing() -> None: ...


def newest_maps() -> Path:
    """The map folder that was made last below ECHOSYNTH_HOME/maps, else the bundled maps."""
    folders = [p for p in listed(maps(), "*") if (p / "index.parquet").is_file()]
    return max(folders, key=lambda p: p.stat().st_mtime) if folders else specs.root() / "bundled" / "maps"
