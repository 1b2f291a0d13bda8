"""What the network sees: whole images on their own grid, with a background of 0.

nnU-Net would resample every case to the median spacing, which differs between echocardiograms that
were all brought to one size, and would shift the black background to a grey of its own choosing. Here

* grey levels are divided by the image's largest: black stays 0, which is also what nnU-Net pads with;
* where all training images have one size, none is resampled: the patch is that size. Masks are
  written with the image's own geometry, as ever;
* images of different sizes (`convert-camus --native`) are resampled to the median spacing and cut
  into windows of the planned size, as nnU-Net plans it.

nnU-Net takes off rows and columns that are wholly 0 and pads with 0 to the patch, so that images come to
lie in its middle: nothing but a shift, at training and at prediction alike.

Plans are changed where they are used: `echosynth train-segmenter` changes the planned file, and the
trainers change what they are given, so that nnU-Net's own commands train and predict the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_plugin.networks import with_stages

_NO_RESAMPLING = "no_resampling_hack"  # nnU-Net's name for: return what was given
_COARSEST_SIDE = 4  # pixels of the coarsest stage, as nnU-Net plans it
_MARK = "whole_images"  # key of a configuration that this module changed: whether its images have one size
Plans = dict[str, Any]  # nnU-Net's plans file


def take_whole_images(plans: Plans, name: str, size: tuple[int, int] | None) -> None:
    """Change configuration `name` of nnU-Net's own plans, with preprocessed cases in a folder of their own.

    Leaves plans alone that were changed before.
    """
    if takes_whole_images(plans, name):
        return
    folder = whole_identifier(plans, name)
    plan_whole_images(plans, name, size)
    plans["configurations"][name]["data_identifier"] = folder


def takes_whole_images(plans: Plans, name: str) -> bool:
    """Whether `plan_whole_images` made configuration `name`."""
    return _MARK in PlansManager(plans).get_configuration(name).configuration


def identifier(plans: Plans, name: str) -> str:
    """Name of the folder with the preprocessed cases of configuration `name`."""
    return PlansManager(plans).get_configuration(name).data_identifier


def whole_identifier(plans: Plans, name: str) -> str:
    """`identifier` once `take_whole_images` has changed the plans."""
    folder = identifier(plans, name)
    return folder if takes_whole_images(plans, name) else f"{folder}_whole"


def plan_whole_images(plans: Plans, name: str, size: tuple[int, int] | None) -> None:
    """Change configuration `name` of nnU-Net's plans, in place, to what this module's first lines say.

    Works for plans of any 2-D planner, plain or residual.

    Args:
        size: (rows, columns) of every training image; None where they differ.
    """
    planned = PlansManager(plans).get_configuration(name).configuration
    channels = len(planned["normalization_schemes"])
    changes: dict[str, Any] = {
        "normalization_schemes": ["RescaleTo01Normalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        _MARK: size is not None,
    }
    if size is not None:
        changes |= _on_one_grid(planned, size)
    whole = dict(planned) | changes
    changes["patch_size"] = halved_evenly(whole["patch_size"], whole["architecture"]["arch_kwargs"]["strides"])
    plans["configurations"][name].update(changes)


def halved_evenly(patch: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """`patch` (rows, columns), enlarged to what a network at half the resolution, without the coarsest stage, can halve.

    nnU-Net halves a long side more often than a short one; then the coarsest stage halves the long side alone, and a patch
    that suits its network need not suit those of `networks`.

    Args:
        strides: of every stage of the planned network.
    """
    parts = [2 * math.prod(int(stride[axis]) for stride in strides[:-1]) for axis in range(len(patch))]
    return [-(-int(side) // part) * part for side, part in zip(patch, parts, strict=True)]


def _on_one_grid(planned: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Parts of a configuration for images of one size that nothing resamples."""
    _, strides, kernels, patch, _ = get_pool_and_conv_props((1.0, 1.0), size, _COARSEST_SIDE, 999999)
    architecture = dict(planned["architecture"])
    settings = with_stages(architecture["arch_kwargs"], len(strides))
    settings["strides"], settings["kernel_sizes"] = [list(s) for s in strides], [list(k) for k in kernels]
    resampling = {f"resampling_fn_{what}": _NO_RESAMPLING for what in ("data", "seg", "probabilities")}
    arguments: dict[str, Any] = {f"{name}_kwargs": {} for name in resampling}
    return {
        "architecture": architecture | {"arch_kwargs": settings},
        "patch_size": [int(p) for p in patch],
        "median_image_size_in_voxels": [float(s) for s in size],
        "spacing": [1.0, 1.0],
        **resampling,
        **arguments,
    }
