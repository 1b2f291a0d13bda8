"""nnU-Net trainers for echocardiograms, found through nnUNet_extTrainer.

Nothing of echo_synth may be imported in this folder. budgets.json says how long and how large each is:

| trainer | is |
|---|---|
| nnUNetTrainerEchoSynth | the paper's budget |
| nnUNetTrainerEchoSynth_25epochs | a tenth of it |
| nnUNetTrainerEchoSynth_cpu | the standard short budget on a CPU |
| nnUNetTrainerEchoSynth_cpu_adam | its predecessor: Adam, three times as long |
| nnUNetTrainerEchoSynth_cpu_pooled | the one before: 2 x 2 averaging before the network, bilinear enlargement after it |
| nnUNetTrainerEchoSynth_cpu256 | half width at full resolution |
| nnUNetTrainerEchoSynth_smoke | seconds: does the whole chain run? |

ECHOSYNTH_NNUNET_EPOCHS, _ITERATIONS and _BATCH override the numbers of any of them;
ECHOSYNTH_NNUNET_SEED makes a training repeatable; ECHOSYNTH_NNUNET_FLIP=1 adds horizontal flips,
which swap the heart's sides; ECHOSYNTH_NNUNET_PRECISION=fp32 does without autocast on a CPU;
ECHOSYNTH_NNUNET_THREADS limits the cores that a training on a CPU uses.

The network sees whole images with a background of 0 (`whole_images`), augmented with rotation, scale,
shift, gain, gamma, noise and blur (`augmentation`).

A dataset.json with "sampling" (`echosynth mix-datasets` writes it) says which share of the
training images comes from each source dataset, whatever their sizes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_plugin import cases, folds, overrides, whole_images
from nnunet_plugin.augmentation import Ranges, augment
from nnunet_plugin.budgets import Budget, budget_of
from nnunet_plugin.loading import Batch, CaseLoader
from nnunet_plugin.mixture import repeated_cases
from nnunet_plugin.networks import (
    PooledNetwork,
    SubpixelNetwork,
    autocast,
    check_architecture,
    cpu_has_bf16,
    labels_at,
    narrower,
    with_stages,
)
from nnunet_plugin.optimizers import Loading, build_optimizer, set_rate

_FINAL = "checkpoint_final.pth"  # of nnU-Net, once a training has ended
_LARGEST_GRADIENT = 12  # norm, as in nnU-Net
_VALIDATION_SEED, _AUGMENTATION_SEED = 1, 2  # streams apart from the one that draws training cases
_RANK_STEP = 7919


class nnUNetTrainerEchoSynth(nnUNetTrainer):
    """The paper's settings: Adam 1e-4, 250 epochs, 2d."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        if "2d" not in configuration:
            raise RuntimeError(
                f"{type(self).__name__} trains 2-D echocardiograms, found configuration '{configuration}'; use 2d"
            )
        self.budget: Budget = budget_of(type(self))
        self.raw_files = cases.current_files(plans["dataset_name"], dataset_json)
        if self.raw_files:
            size = cases.common_size([image for image, _ in self.raw_files.values()])
        else:
            size = cases.prepared_size(plans["dataset_name"], whole_images.whole_identifier(plans, configuration))
        whole_images.take_whole_images(plans, configuration, size)
        super().__init__(plans, configuration, fold, dataset_json, device)
        seed = overrides.seed()
        if seed is not None:
            overrides.seed_everything(seed)  # the network's first weights are drawn after this
        self.seed = int.from_bytes(os.urandom(6), "big") if seed is None else seed
        self.initial_lr = self.budget.rate
        self.num_epochs = overrides.number("EPOCHS", self.budget.epochs)
        self.num_iterations_per_epoch = overrides.number("ITERATIONS", self.budget.iterations)
        self.num_val_iterations_per_epoch = min(self.budget.validation_iterations, self.num_iterations_per_epoch)
        # nnU-Net caps the planned batch at 5 % of the dataset; comparisons across dataset sizes need one batch.
        self.configuration_manager.configuration["batch_size"] = overrides.number("BATCH", self.budget.batch)
        self.save_every = 5  # what a kill may cost, in epochs
        self._autocast = device.type == "cuda" or (device.type == "cpu" and cpu_has_bf16() and overrides.autocast())
        self.ranges = Ranges(flip=0.5 if overrides.flip() else 0.0)
        self.inference_allowed_mirroring_axes = None  # mirrored hearts do not exist in CAMUS's views
        self.iteration = 0
        self._trained_here = False
        self._plot = self.logger.plot_progress_png
        self.logger.plot_progress_png = self._plot_now_and_then

    def _plot_now_and_then(self, folder: str) -> None:
        """nnU-Net draws its picture of the losses after every epoch, which takes as long as a dozen steps of a small network."""
        if (self.current_epoch + 1) % self.save_every == 0 or self.current_epoch + 1 == self.num_epochs:
            self._plot(folder)

    @classmethod
    def build_network_architecture(  # type: ignore[override]
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        budget = budget_of(cls)
        check_architecture(
            configuration_manager.network_arch_class_name,
            configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
        )
        settings = narrower(configuration_manager.network_arch_init_kwargs, budget.width)
        if budget.network != "planned":
            settings = with_stages(settings, settings["n_stages"] - 1)
        pixels = 4 if budget.network == "subpixel" else 1  # of the image in one of the network's
        network = get_network_from_plans(
            configuration_manager.network_arch_class_name,
            settings,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels * pixels,
            num_output_channels * pixels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        wrapper = {"planned": None, "pooled": PooledNetwork, "subpixel": SubpixelNetwork}[budget.network]
        return network if wrapper is None else wrapper(network)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        scales = super()._get_deep_supervision_scales()
        return scales[:-1] if scales and self.budget.network == "subpixel" else scales

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = build_optimizer(self.network.parameters(), self.budget, self.device.type)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def initialize(self) -> None:
        """nnU-Net's, once the cases are there as this trainer's plans want them."""
        if self.local_rank == 0:
            self._preprocess_if_needed()
        if self.is_ddp:
            torch.distributed.barrier()
        super().initialize()
        if self.device.type == "cpu":  # a step takes 0.85 times as long as in the plain layout
            self.network.to(memory_format=torch.channels_last)

    def _preprocess_if_needed(self) -> None:
        folder = Path(self.preprocessed_dataset_folder)
        plans, name = self.plans_manager.plans, self.configuration_name
        if not self.raw_files:
            cases.check_prepared(plans, name, folder)
            return
        if not cases.is_preprocessed(self.raw_files, plans, name, folder):
            self.print_to_log_file(f"preprocessing {len(self.raw_files)} whole images into {folder}")
            workers = int(os.environ.get("nnUNet_def_n_proc", "1"))  # noqa: SIM112
            cases.preprocess(self.raw_files, plans, name, self.dataset_json, folder, workers)

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold of splits_final.json. Raises RuntimeError for a fold that it does not hold, or patients on both sides."""
        if self.fold != "all":
            folds.check(
                Path(self.preprocessed_dataset_folder_base),
                cases.raw_folder(self.plans_manager.dataset_name),
                self.fold,
            )
        return super().do_split()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        training, validation = super().get_tr_and_val_datasets()
        shares = self.dataset_json.get("sampling")
        if shares:
            training.identifiers = repeated_cases(training.identifiers, self.dataset_json["dataset"], shares)
        return training, validation

    def get_dataloaders(self) -> tuple[CaseLoader, CaseLoader]:
        training, validation = self.get_tr_and_val_datasets()
        patch = self.configuration_manager.patch_size
        rank = _RANK_STEP * (self.local_rank if self.is_ddp else 0)
        train_loader = CaseLoader(training, self.batch_size, patch, self.seed + rank)
        val_loader = CaseLoader(validation, self.batch_size, patch, self.seed + rank + _VALIDATION_SEED)
        return train_loader, val_loader

    def on_train_start(self) -> None:
        super().on_train_start()
        cases.note_source(Path(self.preprocessed_dataset_folder), Path(self.output_folder), self._use())
        self._trained_here = True
        for left in Path(self.output_folder).glob("*.partial"):  # of a training that was killed while it saved
            left.unlink()
        if self.device.type == "cpu" and hasattr(os, "sched_getaffinity"):
            torch.set_num_threads(overrides.threads())

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        # By epoch, so that a resumed training draws what an unbroken one does.
        self.iteration = self.current_epoch * self.num_iterations_per_epoch
        self.dataloader_train.go_to(self.iteration)
        self.dataloader_val.go_to(self.current_epoch * self.num_val_iterations_per_epoch)

    def on_train_end(self) -> None:
        super().on_train_end()
        self.dataloader_train.close()
        self.dataloader_val.close()

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """nnU-Net's. Raises RuntimeError where the images or labels changed since the training began, or the optimiser did."""
        if not self.was_initialized:
            self.initialize()
        cases.check_source(Path(self.preprocessed_dataset_folder), Path(self.output_folder), self._use())
        optimizer: torch.optim.Optimizer = self.optimizer
        finished = Path(str(filename_or_checkpoint)).name == _FINAL
        self.optimizer: Any = Loading(optimizer, Path(self.output_folder), finished)
        try:
            super().load_checkpoint(filename_or_checkpoint)
        finally:
            self.optimizer = optimizer

    def _use(self) -> str:
        """How the cases are used, see `cases.use_of`; by the raw dataset's splits where this machine has it."""
        raw = cases.raw_folder(self.plans_manager.dataset_name)
        splits = (raw or Path(self.preprocessed_dataset_folder_base)) / folds.SPLITS
        return cases.use_of(self.dataset_json, folds.read(splits)) if splits.is_file() else ""

    def save_checkpoint(self, filename: str) -> None:
        """Under a temporary name first: a kill while writing leaves the last good one."""
        if self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        partial = f"{filename}.partial"
        super().save_checkpoint(partial)
        if self.local_rank == 0:
            os.replace(partial, filename)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's sliding-window validation; left out after a short training, where it takes as long, unless asked for.

        --val and --npz ask for it.
        """
        if self.budget.full_validation or save_probabilities or not self._trained_here:
            super().perform_actual_validation(save_probabilities)
        else:
            self.print_to_log_file(f"{type(self).__name__} ends here; run the same command with --val to validate")

    def _prepared(self, batch: Batch, training: bool) -> dict[str, Any]:
        """Tensors on the device, augmented in training, labels at every scale of deep supervision."""
        images, labels = batch["data"].to(self.device), batch["target"].to(self.device)
        if training:
            seed = hash((self.seed, _AUGMENTATION_SEED, self.iteration, self.local_rank))
            images, labels = augment(images, labels, self.ranges, torch.Generator().manual_seed(seed % 2**63))
        if self.device.type == "cpu":
            images = images.to(memory_format=torch.channels_last)
        scales = self._get_deep_supervision_scales() if self.enable_deep_supervision else None
        return {"data": images, "target": labels_at(labels, scales)}

    def train_step(self, batch: Batch) -> dict[str, Any]:  # type: ignore[override]
        prepared = self._prepared(batch, training=True)
        if self.budget.schedule == "cosine":
            self._set_cosine_rate()
        self.iteration += 1
        if self.device.type == "cuda":
            return super().train_step(prepared)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self._autocast):
            output = self.network(prepared["data"])
        output = [o.float() for o in output] if isinstance(output, (list, tuple)) else output.float()
        loss = self.loss(output, prepared["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def _set_cosine_rate(self) -> None:
        """From nothing to the full rate over the first hundredth, then down to 0 along half a cosine."""
        total = self.num_epochs * self.num_iterations_per_epoch
        warm = min(1.0, (self.iteration + 1) / max(1, total // 100))
        set_rate(self.optimizer, self.initial_lr * warm * 0.5 * (1 + math.cos(math.pi * self.iteration / total)))

    def validation_step(self, batch: Batch) -> dict[str, Any]:  # type: ignore[override]
        prepared = self._prepared(batch, training=False)
        if self.device.type == "cuda":
            return super().validation_step(prepared)
        with autocast(self.device, self._autocast):
            return super().validation_step(prepared)


class nnUNetTrainerEchoSynth_25epochs(nnUNetTrainerEchoSynth):
    """A tenth of the paper's budget."""


class nnUNetTrainerEchoSynth_cpu(nnUNetTrainerEchoSynth):
    """The standard short budget on a CPU."""


class nnUNetTrainerEchoSynth_cpu_adam(nnUNetTrainerEchoSynth):
    """The former standard: the same network by Adam, three times as long."""


class nnUNetTrainerEchoSynth_cpu_pooled(nnUNetTrainerEchoSynth):
    """The standard before: at half resolution, by averaging, a quarter of the width."""


class nnUNetTrainerEchoSynth_cpu256(nnUNetTrainerEchoSynth):
    """Full resolution and half width: for CPUs that multiply in bf16, else five times the time."""


class nnUNetTrainerEchoSynth_smoke(nnUNetTrainerEchoSynth):
    """Seconds: does the whole chain run?"""
