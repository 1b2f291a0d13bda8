"""The loop that every network trains in: one GPU, many, or the CPU; killed at any moment, it resumes.

Lengths are counted in images. Sample n of the run depends on (seed, n) alone, so neither a
resume nor the number of processes changes what is learned, beyond rounding (and the masks of
dropout, which belong to a micro-batch).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from echo_synth.errors import RunError, TrainingError
from echo_synth.interrupt import continue_with, resume_hint
from echo_synth.progress import Meter, format_seconds
from echo_synth.runs.folder import STATE, WEIGHTS
from echo_synth.runs.progress import TRAIN_AGAIN, progress_of
from echo_synth.runs.start import check_identity, drop_former
from echo_synth.runs.tensors import save_tensors
from echo_synth.specs import TrainingSpec
from echo_synth.training.ema import PowerEma
from echo_synth.training.history import History
from echo_synth.training.optimizers import build_optimizer
from echo_synth.training.posthoc import Snapshots
from echo_synth.training.state import TrainingState
from echo_synth.training.streams import position_seed
from nnunet_plugin.optimizers import set_rate

Loss = Callable[[nn.Module, Sequence[int]], Mapping[str, Tensor]]
Validate = Callable[[nn.Module], Mapping[str, float]]
Preview = Callable[[nn.Module, History, int], None]
_SCALER_SKIPS = 50  # consecutive fp16 steps that may overflow while the loss scale settles


class _Objective(nn.Module):
    """Network and loss as one module: what is distributed has one forward pass, which synchronises gradients."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, positions: Sequence[int]) -> dict[str, Tensor]:
        return dict(self._loss(self.network, positions))


@dataclass
class Engine:
    """One training run.

    Args:
        module: the network; its parameters are what trains.
        loss: maps (module, sample positions) to named scalars, one of them "loss".
        validate: maps the module (with averaged weights) to named numbers; the first decides
            which weights are best, lower is better.
        spec: lengths, batch, optimiser.
        folder: run folder; state, history and weights go there.
        seed: of initialisation and sample stream, stored so that a resume can check it.
        identity: the settings by name that a resumed run must share with its beginning, as JSON holds them.
        precision: fp32, bf16 or fp16.
        device: auto, cpu or cuda.
        preview: draws pictures after each validation.
        micro_batch: images at once; the global batch is accumulated from such pieces.
        compiled: parts of the module to pass through torch.compile.
        checkpoint_seconds: how much work a kill may cost (more where saving is slow); 0 saves every step.
        validations: how many over the run.
        run_folder: the run that `folder` is a part of, which --resume continues; None: `folder` itself.
    """

    module: nn.Module
    loss: Loss
    validate: Validate
    spec: TrainingSpec
    folder: Path
    seed: int
    identity: Mapping[str, Any]
    precision: str = "fp32"
    device: str = "auto"
    preview: Preview | None = None
    micro_batch: int | None = None
    compiled: Sequence[nn.Module] = ()
    checkpoint_seconds: float = 60.0
    validations: int = 20
    run_folder: Path | None = None

    def run(self, resume: bool) -> Mapping[str, float]:
        """Train to `spec.images`; returns the best validation's numbers, whose weights are kept.

        Interrupted, it leaves word of what is saved and of the command that continues it.

        Raises:
            TrainingError: the loss is not finite.
            RunError: the state in `folder` belongs to another run.
        """
        continuing = continue_with(
            {"--resume": None, "--out": str(self.run_folder or self.folder)}, drop=("--overwrite",)
        )
        with resume_hint(continuing, self._saved):
            return self._train(resume)

    def _saved(self) -> str:
        progress = progress_of(self.folder)
        return f"{self.folder}: saved {progress}" if progress else f"{self.folder}: nothing saved yet"

    @property
    def _name(self) -> str:
        return self.folder.name if self.run_folder is None else f"{self.run_folder.name}/{self.folder.name}"

    def _train(self, resume: bool) -> Mapping[str, float]:
        self._start(resume)
        try:
            while self.state.step * self.spec.batch < self.spec.images:
                self._advance()
            self._validate()
            self._save_state()
            if self.main:
                drop_former(self.folder)
        finally:
            self.meter.close()
            if self.history:
                self.history.close()
        return self.state.best

    @property
    def _instead(self) -> str:
        """What to do when the state is of no use."""
        part = "remove that file: --resume then does this last phase again, from the weights before it"
        return TRAIN_AGAIN if self.run_folder is None else part

    @property
    def _remedy(self) -> str:
        """What to do when numbers are not finite: another precision can go on from the last good state, another rate cannot."""
        again = "train again with a lower --lr and --overwrite"
        if self.precision == "fp32":
            return again
        return f"go on from the last good state with --resume --precision fp32, or {again}"

    @property
    def _steps(self) -> int:
        return -(-self.spec.images // self.spec.batch)

    def _start(self, resume: bool) -> None:
        mixed = {"fp32": "no"}.get(self.precision, self.precision)
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=self.device == "cpu")
        self.parameters = list(self.module.parameters())
        for part in self.compiled:
            part.compile()
        self.live, self.optimizer = self.accelerator.prepare(
            _Objective(self.module, self.loss), build_optimizer(self.parameters, self.spec)
        )
        count = self.spec.ema_snapshots
        snapshots = Snapshots(self.module, self.folder, count, self._steps) if count else None
        ema = PowerEma(self.parameters, self.spec.ema_std)
        length = (self.spec.images, self.spec.batch)
        self.state = TrainingState(self.module, self.optimizer, ema, *length, snapshots, self.accelerator.scaler)
        self.shares: dict[str, float] = {}  # of each term: how many steps it was in
        self.running: dict[str, Tensor] = {}  # sums, on the device: reading one would wait for all that is queued there
        if resume and (self.folder / STATE).is_file():
            check_identity(self.folder, {**self.identity, "seed": self.seed}, self._instead)
            self.state.load(self.folder / STATE, self._instead)
        self.main = self.accelerator.is_main_process
        self.history = History(self.folder, self.state.step * self.spec.batch) if self.main else None
        self.saved_at = self.logged_at = time.monotonic()
        self.logged_step = self.state.step
        self.skipped, self.save_seconds = 0, 0.0
        self.meter = Meter(
            self.spec.images, self._name, "images", self.state.step * self.spec.batch, quiet=not self.main
        )
        self.validate_every = max(1, self._steps // self.validations)
        if self.state.step == 0:  # from the first moment there is something to resume, and nothing of a replaced run
            if self.main:
                (self.folder / WEIGHTS).unlink(missing_ok=True)
            self._save_state()

    def _positions(self) -> list[int]:
        """This process's share of the step's global batch."""
        first = self.state.step * self.spec.batch
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if self.spec.batch % world:
            raise RunError(f"batch {self.spec.batch} does not divide over {world} processes; choose a multiple")
        return list(range(first + rank, first + self.spec.batch, world))

    def _advance(self) -> None:
        self.module.train()
        set_rate(self.optimizer, self._learning_rate())
        positions = self._positions()
        size = self.micro_batch or len(positions)
        pieces = [positions[i : i + size] for i in range(0, len(positions), size)]
        terms = [self._backward(p, len(p) / len(positions), last=i == len(pieces) - 1) for i, p in enumerate(pieces)]
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.spec.clip_norm)
        self._check_finite(norm, pieces, terms)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.ema.update(self.parameters, self.state.step)
        if self.state.snapshots:
            self.state.snapshots.update(self.state.step, write=self.main)
        self.meter.update(self.spec.batch)
        self._housekeeping()

    def _backward(self, piece: list[int], share: float, last: bool) -> dict[str, Tensor]:
        """Add the gradients of `piece`; returns its terms, detached, on the device."""
        context = nullcontext() if last else self.accelerator.no_sync(self.live)
        with context:
            # Dropout draws from the global generator: set by position, a resumed run draws the same masks.
            torch.manual_seed(position_seed(self.seed, piece[0]))
            terms = self.live(piece)
            self.accelerator.backward(terms["loss"] * share)
        terms = {name: value.detach() for name, value in terms.items()}
        for name, value in terms.items():
            added = value.double() * share
            self.running[name] = self.running[name] + added if name in self.running else added
            self.shares[name] = self.shares.get(name, 0.0) + share  # a term may begin after the others
        return terms

    def _check_finite(
        self, norm: Tensor | float | None, pieces: Sequence[list[int]], terms: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Stop before weights that are not finite exist.

        The gradient's norm is the one number of a step that is read: a loss that is not finite makes it so too. fp16's
        scaler skips steps whose gradient alone is not, up to a point.
        """
        if norm is None or bool(torch.isfinite(torch.as_tensor(norm))):
            self.skipped = 0
            return
        for piece, values in zip(pieces, terms, strict=True):
            bad = [name for name, value in values.items() if not torch.isfinite(value)]
            if bad:
                raise TrainingError(
                    f"{self._name}: {', '.join(bad)} is not finite {self._place(piece)}; {self._remedy}"
                )
        self.skipped += 1
        if self.skipped > (_SCALER_SKIPS if self.accelerator.scaler else 0):
            seen = [position for piece in pieces for position in piece]
            raise TrainingError(f"{self._name}: the gradient is not finite {self._place(seen)}; {self._remedy}")

    def _place(self, positions: Sequence[int]) -> str:
        return f"at step {self.state.step} (samples {positions[0]} to {positions[-1]})"

    def _learning_rate(self) -> float:
        """Linear warm-up over the first 2 % of training, then constant, and a linear fall over the last `lr_decay` of it.

        Without a fall the average of the weights does the annealing.
        """
        warm = max(1, round(0.02 * self.state.first_images / self.spec.batch))
        rising = min(1.0, (self.state.step + 1) / warm)
        left = (self._steps - self.state.step) / max(1.0, self.spec.lr_decay * self._steps)
        return self.spec.lr * (min(rising, left) if self.spec.lr_decay else rising)

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if self.state.step % self.validate_every == 0:
            self._validate()
            self._save_state()
        elif now - self.saved_at > self._checkpoint_pause():
            self._save_state()

    def _checkpoint_pause(self) -> float:
        """Seconds between saves: saving takes at most a twentieth of the time, unless every step is asked for."""
        return max(self.checkpoint_seconds, 20 * self.save_seconds) if self.checkpoint_seconds else 0.0

    def _validate(self) -> None:
        if self.state.validated_step == self.state.step:
            return
        self.state.validated_step = self.state.step
        self._log("train", self._mean_over_processes())
        self.running, self.shares = {}, {}
        self.module.eval()
        self.state.ema.swap(self.parameters)
        try:
            with torch.no_grad(), self.accelerator.autocast():
                numbers = dict(self.validate(self.module))
                if self.preview and self.history:
                    self.preview(self.module, self.history, self.state.step * self.spec.batch)
            self._log("val", numbers)
            self._keep_if_best(numbers)
        finally:
            self.state.ema.swap(self.parameters)

    def _mean_over_processes(self) -> dict[str, float]:
        """Training terms since the last validation: the global batch's, whichever process saw which image."""
        if not self.running:
            return {}
        values = torch.stack([self.running[name] / self.shares[name] for name in sorted(self.running)])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(sorted(self.running), values.tolist(), strict=True))

    def _keep_if_best(self, numbers: dict[str, float]) -> None:
        key = next(iter(numbers))
        if not all(isfinite(v) for v in numbers.values()):
            raise TrainingError(f"{self._name}: validation at step {self.state.step} gave {numbers}; {self._remedy}")
        if self.state.best and numbers[key] >= self.state.best[key]:
            return
        self.state.best = {**numbers, "images": float(self.state.step * self.spec.batch)}
        if self.main:
            save_tensors(self.folder / WEIGHTS, self.module.state_dict(), {"best": self.state.best})

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        images = self.state.step * self.spec.batch
        rate = (self.state.step - self.logged_step) * self.spec.batch / max(now - self.logged_at, 1e-9)
        if self.history and values:
            self.history.add(images, self.state.step, split, values, self._learning_rate(), rate)
        if split == "val":
            self.logged_at, self.logged_step = now, self.state.step
            if self.main:
                left = format_seconds((self.spec.images - images) / max(rate, 1e-9))
                shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
                print(f"{self._name}: {images} images, {shown}, {rate:.1f} images/s, {left} left", file=sys.stderr)

    def _save_state(self) -> None:
        start = time.monotonic()
        if self.main:
            self.state.save(self.folder / STATE, self.identity, self.seed)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - start
