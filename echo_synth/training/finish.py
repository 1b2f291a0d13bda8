"""A VAE's last phase: its decoder is tuned to E[z], the encoder stays.

Training decodes draws of z, generation decodes E[z]. A decoder that knows draws alone removes a
noise that is no longer there, and takes speckle with it. The phase is short, an `Engine` of its
own in a folder inside the run, and can be killed and continued like all training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from echo_synth.errors import DataError
from echo_synth.files import read_json, write_json
from echo_synth.runs.folder import AS_TRAINED, FINISH, STATE, WEIGHTS, file_hash
from echo_synth.runs.tensors import load_tensors, load_weights, save_tensors
from echo_synth.specs import TrainingSpec
from echo_synth.training.distributed import on_main
from echo_synth.training.loop import Engine
from echo_synth.training.optimizers import adamw_rate
from echo_synth.training.tasks.vae import VaeTask
from echo_synth.vae.network import GammaVAE

_EMA_STD = 0.1  # the average over the last tenth does the annealing of so short a phase
_VALIDATIONS = 4


@dataclass(frozen=True)
class FinishSettings:
    """How the decoder's last phase computes; as in `Engine`."""

    training: TrainingSpec
    seed: int
    precision: str
    device: str
    micro_batch: int | None = None

    def spec(self) -> TrainingSpec:
        """Length, batch and optimiser of the phase."""
        before = self.training
        steps = {"optimizer": "adamw", "lr": adamw_rate(before)}
        changed = {"images": before.decoder_finish, **steps, "ema_std": _EMA_STD}
        return before.model_copy(update={**changed, "ema_snapshots": 0})


def finish_decoder(vae: GammaVAE, task: VaeTask, settings: FinishSettings, run: Path) -> Mapping[str, float]:
    """Tune the decoder of the trained weights in `run`, which are kept as AS_TRAINED; returns the validation's numbers.

    A run whose weights are finished already, by as many images, is left as it is.

    Args:
        vae: network of the run's size, on its device; its weights are replaced.

    Raises:
        RunError: the run's weights are damaged.
        TrainingError: the loss is not finite.
    """
    done = on_main(settings.device, partial(_prepare, run, settings))
    if done is not None:
        return done
    load_weights(vae, run / AS_TRAINED)
    for part in (vae.encoder, vae.to_alpha, vae.to_beta):
        part.requires_grad_(False)
    engine = Engine(
        vae,
        task.finishing_loss,
        task.validate,
        settings.spec(),
        run / FINISH,
        settings.seed,
        _identity(run, settings),
        precision=settings.precision,
        device=settings.device,
        micro_batch=settings.micro_batch,
        validations=_VALIDATIONS,
        run_folder=run,
    )
    best = engine.run(resume=True)
    on_main(settings.device, partial(_keep, run, settings, best))
    return best


def undo_finish(run: Path) -> None:
    """The weights of `run` as they were trained, where the phase was done: --resume --decoder-finish 0."""
    if load_tensors(run / WEIGHTS)[1].get("decoder_finish"):
        save_tensors(run / WEIGHTS, *load_tensors(run / AS_TRAINED))
        (run / AS_TRAINED).unlink()


def _identity(run: Path, settings: FinishSettings) -> dict[str, Any]:
    return {"as_trained": file_hash(run / AS_TRAINED), **settings.spec().model_dump()}


def _prepare(run: Path, settings: FinishSettings) -> dict[str, float] | None:
    """Set the trained weights aside, and make the phase's folder; numbers of a phase that is done, else None."""
    tensors, metadata = load_tensors(run / WEIGHTS)
    images = metadata.get("decoder_finish", 0)
    if images == settings.training.decoder_finish:
        return dict(metadata["best"])
    if not images:  # trained, or trained further: what an earlier phase left belongs to other weights
        save_tensors(run / AS_TRAINED, tensors, metadata)
    folder, identity = run / FINISH, _identity(run, settings)
    if not _same(folder, identity):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_json(folder / "settings.json", identity)
    return None


def _same(folder: Path, identity: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(folder / "settings.json") == dict(identity))
    except DataError:
        return False


def _keep(run: Path, settings: FinishSettings, best: Mapping[str, float]) -> None:
    """The finished weights become the run's; the phase's state, which nothing continues any more, goes."""
    tensors, _ = load_tensors(run / FINISH / WEIGHTS)
    origin = {"best": dict(best), "decoder_finish": settings.training.decoder_finish}
    save_tensors(run / WEIGHTS, tensors, origin)
    for name in (STATE, WEIGHTS, "settings.json"):
        (run / FINISH / name).unlink(missing_ok=True)
