"""nnU-Net trainers for echocardiograms, found through nnUNet_extTrainer.

This folder is on nnU-Net's path alone: nothing of echo_synth may be imported here.

| trainer | epochs x iterations | batch | network |
|---|---|---|---|
| nnUNetTrainerEchoSynth | 250 x 250 (the paper's) | 16 | as planned |
| nnUNetTrainerEchoSynth_25epochs | 25 x 250 | 16 | as planned |
| nnUNetTrainerEchoSynth_cpu | 24 x 50 | 12 | a quarter of the width, at half resolution |
| nnUNetTrainerEchoSynth_cpu256 | 24 x 50 | 12 | half width |
| nnUNetTrainerEchoSynth_smoke | 1 x 2 | 2 | a quarter of the width |

ECHOSYNTH_NNUNET_EPOCHS, _ITERATIONS and _BATCH override the numbers of any of them;
ECHOSYNTH_NNUNET_SEED makes a training repeatable (slower: augmentation moves into the training
process); ECHOSYNTH_NNUNET_FLIP=1 adds horizontal flips, which swap the heart's sides;
ECHOSYNTH_NNUNET_PRECISION=fp32 does without autocast on a CPU.

A dataset.json with "sampling" (`echosynth mix-datasets` writes it) says which share of the
training images comes from each source dataset, whatever their sizes.
"""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.helpers.scalar_type import RandomScalar
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch.nn import functional as F

_ROTATION_RAD = math.radians(15)
_MOST_REPEATS = 200  # of one case in the list that training draws from
_COLUMNS = 1  # the lateral axis of a 2-D image


def repeated_cases(cases: Sequence[str], sources: Mapping[str, Any], shares: Mapping[str, float]) -> list[str]:
    """`cases`, each as often as makes uniform draws from the list hit every source dataset with its share.

    Whole numbers of repeats come within a hundredth of the shares, or as near as 200 repeats can.

    Args:
        sources: dataset.json's "dataset": case to its image files, whose path names the source.
        shares: by source dataset, adding up to 1.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        path = str(sources[case]["images"][0]).replace("\\", "/")
        members[next(part for part in reversed(path.split("/")) if part in shares)].append(case)
    weight = {s: shares[s] / len(m) for s, m in members.items() if shares[s] > 0}
    best, error = dict.fromkeys(weight, 1), math.inf
    for scale in range(1, _MOST_REPEATS + 1):
        tried = {s: max(1, round(scale * w / min(weight.values()))) for s, w in weight.items()}
        if max(tried.values()) > _MOST_REPEATS and math.isfinite(error):
            break
        total = sum(n * len(members[s]) for s, n in tried.items())
        off = max(
            abs(n * len(members[s]) / total - shares[s] / sum(shares[k] for k in weight)) for s, n in tried.items()
        )
        if off < error:
            best, error = tried, off
        if error < 0.005:
            break
    return [case for source, n in best.items() for case in members[source] * n]


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's generators, and torch's deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)


class SectorPreserving(BasicTransform):
    """Spatial, then intensity transforms that leave everything outside the sector at the background value.

    The background is the image's smallest value: black before nnU-Net's normalisation, a
    negative constant after it. Zero padding would otherwise come in as mid-grey.
    """

    def __init__(self, spatial: BasicTransform, intensity: list[BasicTransform]) -> None:
        super().__init__()
        self.spatial, self.intensity = spatial, intensity

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        background = data_dict["image"].amin()
        data_dict["image"] = data_dict["image"] - background
        data_dict = self.spatial(**data_dict)
        outside = data_dict["image"] <= 1e-6
        for transform in self.intensity:
            data_dict = transform(**data_dict)
        data_dict["image"] = torch.where(outside, 0.0, data_dict["image"]) + background
        return data_dict


def echo_transforms(patch_size: Any, deep_supervision_scales: Any, flip: bool = False) -> ComposeTransforms:
    """Augmentation a probe could produce: small rotation, scale and shift; gain, gamma, noise, blur. Mirroring on request."""
    spatial = SpatialTransform(
        patch_size, patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0,
        p_rotation=0.5, rotation=(-_ROTATION_RAD, _ROTATION_RAD), p_scaling=0.5, scaling=(0.8, 1.25),
        p_synchronize_scaling_across_axes=1, bg_style_seg_sampling=False, border_mode_seg="constant", padding_value_seg=-1,
    )  # fmt: skip
    gain = MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), synchronize_channels=True, p_per_channel=1)
    gamma = GammaTransform(
        BGContrast((0.7, 1.5)), p_invert_image=0, synchronize_channels=True, p_per_channel=1, p_retain_stats=0
    )
    noise = GaussianNoiseTransform(noise_variance=(0, 0.05), p_per_channel=1, synchronize_channels=True)
    blur = GaussianBlurTransform(
        blur_sigma=(0.5, 1.2), synchronize_channels=True, synchronize_axes=False, p_per_channel=1
    )
    intensity = [
        RandomTransform(gain, apply_probability=0.3), RandomTransform(gamma, apply_probability=0.3),
        RandomTransform(noise, apply_probability=0.15), RandomTransform(blur, apply_probability=0.2),
    ]  # fmt: skip
    transforms: list[BasicTransform] = [SectorPreserving(spatial, intensity), RemoveLabelTansform(-1, 0)]
    if flip:
        transforms.insert(1, MirrorTransform(allowed_axes=(_COLUMNS,)))
    if deep_supervision_scales is not None:
        transforms.append(DownsampleSegForDSTransform(ds_scales=deep_supervision_scales))
    return ComposeTransforms(transforms)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; where it is emulated autocast is slower than float32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class HalfResolution(torch.nn.Module):
    """A U-Net between 2 x 2 averaging of the image and bilinear enlargement of the logits.

    Takes and gives what the network that was planned does: (N, C, H, W) to (N, K, H, W), with deep
    supervision a list that begins at full resolution. A quarter of the computation and more: the
    finest stage alone is the dearest.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def decoder(self) -> torch.nn.Module:
        """Where nnU-Net switches deep supervision."""
        return self.network.decoder  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> Any:
        output = self.network(F.avg_pool2d(x, 2))
        finest = output[0] if isinstance(output, (list, tuple)) else output
        enlarged = F.interpolate(finest, scale_factor=2, mode="bilinear", align_corners=False)
        return [enlarged, *output] if isinstance(output, (list, tuple)) else enlarged


def without_finest_stage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """nnU-Net's settings of a network with one stage less; widths stay those of the finest stages."""
    kept = settings["n_stages"] - 1
    shorter = dict(settings) | {"n_stages": kept}
    for name in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage"):
        shorter[name] = settings[name][:kept]
    shorter["n_conv_per_stage_decoder"] = settings["n_conv_per_stage_decoder"][: kept - 1]
    return shorter


class nnUNetTrainerEchoSynth(nnUNetTrainer):
    """The paper's settings: Adam 1e-4, 250 epochs, 2d."""

    epochs, iterations, val_iterations, batch = 250, 250, 50, 16
    rate = 1e-4
    width = 1.0
    half_resolution = False
    full_validation = True

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        if "2d" not in configuration:
            raise RuntimeError(
                f"{type(self).__name__} trains 2-D echocardiograms, found configuration '{configuration}'; use 2d"
            )
        super().__init__(plans, configuration, fold, dataset_json, device)
        seed = os.environ.get("ECHOSYNTH_NNUNET_SEED")
        self.seed = int(seed) if seed else None
        if self.seed is not None:
            seed_everything(self.seed)  # the network's first weights are drawn after this
        self.initial_lr = self.rate
        self.num_epochs = int(os.environ.get("ECHOSYNTH_NNUNET_EPOCHS", self.epochs))
        self.num_iterations_per_epoch = int(os.environ.get("ECHOSYNTH_NNUNET_ITERATIONS", self.iterations))
        self.num_val_iterations_per_epoch = min(self.val_iterations, self.num_iterations_per_epoch)
        # nnU-Net caps the planned batch at 5 % of the dataset; comparisons across dataset sizes need one batch.
        self.configuration_manager.configuration["batch_size"] = int(
            os.environ.get("ECHOSYNTH_NNUNET_BATCH", self.batch)
        )
        self.save_every = 5  # what a kill may cost, in epochs
        wanted = os.environ.get("ECHOSYNTH_NNUNET_PRECISION") != "fp32"
        self._autocast = device.type == "cuda" or (device.type == "cpu" and cpu_has_bf16() and wanted)

    @classmethod
    def _features(cls, planned: list[int]) -> list[int]:
        return [max(8, int(f * cls.width)) for f in planned]

    @classmethod
    def build_network_architecture(  # type: ignore[override]
        cls, plans_manager: Any, configuration_manager: Any, num_input_channels: int, num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:  # fmt: skip
        settings = dict(configuration_manager.network_arch_init_kwargs)
        settings["features_per_stage"] = cls._features(settings["features_per_stage"])
        if cls.half_resolution:
            settings = without_finest_stage(settings)
        network = get_network_from_plans(
            configuration_manager.network_arch_class_name, settings, configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels, num_output_channels, allow_init=True, deep_supervision=enable_deep_supervision,
        )  # fmt: skip
        return HalfResolution(network) if cls.half_resolution else network

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[RandomScalar, bool, Any, Any]:
        _, dummy, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        # nnU-Net enlarges the patch for rotations and pads with 0, which is mid-grey after its normalisation.
        initial_patch = list(self.configuration_manager.patch_size)
        # Mirrored hearts do not exist in CAMUS's views: neither trained on nor averaged over at prediction.
        self.inference_allowed_mirroring_axes = None
        return (-_ROTATION_RAD, _ROTATION_RAD), dummy, initial_patch, None

    @staticmethod
    def get_training_transforms(
        patch_size: Any, rotation_for_DA: Any, deep_supervision_scales: Any, *args: Any, **kwargs: Any
    ) -> BasicTransform:
        return echo_transforms(patch_size, deep_supervision_scales, os.environ.get("ECHOSYNTH_NNUNET_FLIP") == "1")

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        training, validation = super().get_tr_and_val_datasets()
        shares = self.dataset_json.get("sampling")
        if shares:
            training.identifiers = repeated_cases(training.identifiers, self.dataset_json["dataset"], shares)
        return training, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        if self.seed is not None:
            os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  worker processes hand over batches in any order
        return super().get_dataloaders()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.seed is not None:  # by epoch, so that a resumed training draws what an unbroken one does
            rank = self.local_rank if self.is_ddp else 0
            seed_everything(self.seed + 1000 * (self.current_epoch + 1) + 7919 * rank)

    def save_checkpoint(self, filename: str) -> None:
        """Under a temporary name first: a kill while writing leaves the last good one."""
        partial = f"{filename}.partial"
        super().save_checkpoint(partial)
        if self.local_rank == 0 and os.path.isfile(partial):
            os.replace(partial, filename)

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.device.type == "cpu" and hasattr(os, "sched_getaffinity"):
            # OMP_NUM_THREADS=1 is for nnU-Net's worker processes; by now they run. One thread here costs 1.7 times.
            torch.set_num_threads(len(os.sched_getaffinity(0)))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's sliding-window validation; left out at short budgets, where it takes as long as the training."""
        if self.full_validation:
            super().perform_actual_validation(save_probabilities)
        else:
            self.print_to_log_file(f"{type(self).__name__} ends here; nnUNetv2_predict judges it on held-out patients")

    def _forward_context(self) -> Any:
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self._autocast)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.device.type == "cuda":
            return super().train_step(batch)
        data = batch["data"].to(self.device)
        target = [t.to(self.device) for t in batch["target"]] if isinstance(batch["target"], list) else batch["target"]
        self.optimizer.zero_grad(set_to_none=True)
        with self._forward_context():
            output = self.network(data)
        output = [o.float() for o in output] if isinstance(output, (list, tuple)) else output.float()
        loss = self.loss(output, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.device.type == "cuda":
            return super().validation_step(batch)
        with self._forward_context():
            return super().validation_step(batch)


class nnUNetTrainerEchoSynth_25epochs(nnUNetTrainerEchoSynth):
    """A tenth of the paper's budget."""

    epochs = 25


class nnUNetTrainerEchoSynth_cpu(nnUNetTrainerEchoSynth):
    """The standard short budget on a CPU: a quarter of the width at half resolution, 1200 iterations of 12 images."""

    epochs, iterations, val_iterations, batch = 24, 50, 4, 12
    rate = 1e-3  # 1e-4 is for 62 500 iterations; 1200 need larger steps
    width, half_resolution, full_validation = 0.25, True, False


class nnUNetTrainerEchoSynth_cpu256(nnUNetTrainerEchoSynth_cpu):
    """The same number of steps at full resolution and half width: for CPUs that multiply in bf16, else five times the time."""

    width, half_resolution = 0.5, False


class nnUNetTrainerEchoSynth_smoke(nnUNetTrainerEchoSynth):
    """Seconds: does the whole chain run?"""

    epochs, iterations, val_iterations, batch = 1, 2, 1, 2
    width, full_validation = 0.25, False
