"""The plugin's parts: budgets, networks, augmentation, order of cases, folds, plans for whole images."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from echo_synth.data.nifti import write_image
from nnunet_plugin import folds, overrides, whole_images
from nnunet_plugin.augmentation import Ranges, _matrices, augment
from nnunet_plugin.budgets import budgets
from nnunet_plugin.echosynth_trainers import nnUNetTrainerEchoSynth
from nnunet_plugin.loading import CaseLoader
from nnunet_plugin.mixture import repeated_cases
from nnunet_plugin.networks import check_architecture, labels_at, with_stages

EVERYTHING = Ranges(geometric=1, intensity=1, noisy=1, blurred=1)
NOTHING = Ranges(geometric=0, intensity=0, noisy=0, blurred=0)


def _architecture(blocks: str = "n_conv_per_stage") -> dict[str, Any]:
    stages = {
        "n_stages": 4,
        "features_per_stage": [32, 64, 128, 256],
        "kernel_sizes": [[3, 3]] * 4,
        blocks: [2] * 4,
        "strides": [[1, 1], [2, 2], [2, 2], [2, 2]],
        "n_conv_per_stage_decoder": [2] * 3,
    }
    fixed = {
        "conv_op": "torch.nn.Conv2d",
        "conv_bias": True,
        "norm_op": "torch.nn.InstanceNorm2d",
        "norm_op_kwargs": {"affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {},
    }
    module = "unet.PlainConvUNet" if blocks == "n_conv_per_stage" else "unet.ResidualEncoderUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.{module}",
        "arch_kwargs": stages | fixed,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _network(trainer: str, supervised: bool, blocks: str = "n_conv_per_stage") -> torch.nn.Module:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_plugin import echosynth_trainers

    plans = PlansManager({"configurations": {"2d": {"architecture": _architecture(blocks)}}})
    cls = getattr(echosynth_trainers, trainer)
    made: torch.nn.Module = cls.build_network_architecture(None, plans.get_configuration("2d"), 1, 4, supervised)
    return made.eval()


def test_every_trainer_has_a_budget() -> None:
    from nnunet_plugin import echosynth_trainers

    classes = {n for n in vars(echosynth_trainers) if n.startswith("nnUNetTrainerEchoSynth")}
    assert classes == budgets().keys()
    paper = budgets()["nnUNetTrainerEchoSynth"]
    assert (paper.epochs, paper.iterations, paper.batch, paper.images) == (250, 250, 16, 1_000_000)


@pytest.mark.parametrize("blocks", ["n_conv_per_stage", "n_blocks_per_stage"])
@pytest.mark.parametrize("trainer", ["nnUNetTrainerEchoSynth_cpu", "nnUNetTrainerEchoSynth_cpu_pooled"])
def test_short_budgets_answer_at_full_resolution(trainer: str, blocks: str) -> None:
    whole = _network("nnUNetTrainerEchoSynth_cpu256", True, blocks)
    half = _network(trainer, True, blocks)
    x = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        shapes = [o.shape for o in half(x)]
        assert shapes == [o.shape for o in whole(x)][: len(shapes)]  # nnU-Net's targets fit both
        half.decoder.deep_supervision = False  # type: ignore[union-attr]  # as nnU-Net does before it predicts
        assert half(x).shape == (2, 4, 64, 64)


def test_the_former_standard_averages_pixels_and_the_standard_does_not() -> None:
    x = torch.rand(2, 1, 64, 64)
    flipped = x.unflatten(3, (32, 2)).flip(4).flatten(3)  # other pixels of the same 2 x 2 averages
    with torch.inference_mode():
        pooled = _network("nnUNetTrainerEchoSynth_cpu_pooled", False)
        torch.testing.assert_close(pooled(flipped), pooled(x))
        subpixel = _network("nnUNetTrainerEchoSynth_cpu", False)
        assert not torch.allclose(subpixel(flipped), subpixel(x))


def test_stages_are_cut_and_repeated() -> None:
    settings = _architecture()["arch_kwargs"]
    assert with_stages(settings, 3)["features_per_stage"] == [32, 64, 128]
    longer = with_stages(settings, 6)
    assert longer["features_per_stage"] == [32, 64, 128, 256, 256, 256]
    assert len(longer["n_conv_per_stage_decoder"]) == 5


def test_plans_name_networks_and_nothing_else() -> None:
    settings = {"conv_op": "torch.nn.modules.conv.Conv2d", "dropout_op": None}
    check_architecture(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet", settings, ["conv_op", "dropout_op"]
    )
    for class_name, conv in (("os.system", "torch.nn.Conv2d"), ("dynamic_network_architectures.x", "os.mkdir")):
        with pytest.raises(RuntimeError, match="plans name"):
            check_architecture(class_name, {"conv_op": conv}, ["conv_op"])


def test_labels_at_half_scale_are_labels() -> None:
    labels = torch.randint(0, 4, (2, 1, 8, 8), dtype=torch.int16)
    full, half = labels_at(labels, [[1.0, 1.0], [0.5, 0.5]])
    assert torch.equal(full, labels)
    assert half.shape == (2, 1, 4, 4)
    assert (half == labels[..., 1::2, 1::2]).all()


def _sector() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images (2, 1, 64, 64) with a bright rectangle, and the rectangle as label 1."""
    label = torch.zeros(2, 1, 64, 64, dtype=torch.int16)
    label[..., 20:50, 10:34] = 1
    grey = torch.rand(label.shape, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    return grey * label, label


def test_nothing_asked_for_changes_nothing() -> None:
    images, labels = _sector()
    same, same_labels = augment(images, labels, NOTHING, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    assert torch.equal(same_labels, labels)


def test_the_outside_stays_black_and_labels_move_with_the_image() -> None:
    images, labels = _sector()
    middles = []
    for seed in range(20):
        moved, moved_labels = augment(images, labels, EVERYTHING, torch.Generator().manual_seed(seed))
        assert (moved[moved_labels == 0] == 0).float().mean() > 0.95  # the rim aside, where interpolation mixes
        assert (moved[moved_labels == 1] > 0).float().mean() > 0.95
        columns = (moved_labels.float() * torch.arange(64.0)).sum((1, 2, 3)) / moved_labels.sum((1, 2, 3))
        middles += columns.tolist()
    shift = 64 * Ranges().shift
    assert max(middles) - min(middles) > shift  # they are shifted
    assert max(middles) < 21.5 + 2 * shift + 64 * math.sin(Ranges().rotation)  # and never mirrored: that is column 41.5


def test_mirroring_is_asked_for() -> None:
    images, labels = _sector()
    only_mirrored = Ranges(geometric=0, intensity=0, noisy=0, blurred=0, flip=1)
    moved, moved_labels = augment(images, labels, only_mirrored, torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved, images.flip(3), atol=1e-5, rtol=0)
    assert torch.equal(moved_labels, labels.flip(3))


@pytest.mark.parametrize("shape", [(64, 64), (96, 64), (64, 96)])
def test_a_turn_keeps_right_angles_and_lengths_whatever_the_shape(shape: tuple[int, int]) -> None:
    """Of the map from pixels to pixels: its columns are orthogonal and of one length."""
    turned = Ranges(geometric=1, scale=1.0, shift=0.0, intensity=0, noisy=0, blurred=0)
    pixels = np.diag([shape[1] / 2, shape[0] / 2])  # columns first, as affine_grid has it
    for matrix in _matrices(20, shape, turned, torch.Generator().manual_seed(0)).numpy()[:, :, :2]:
        moved = pixels @ matrix @ np.linalg.inv(pixels)
        assert np.allclose(moved.T @ moved, np.eye(2), atol=1e-5)


def test_a_seed_repeats_augmentation() -> None:
    images, labels = _sector()
    first, second, third = (augment(images, labels, EVERYTHING, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


class _Cases:
    """Seven cases of 6 x 5 pixels that hold their number."""

    identifiers = [str(i) for i in range(7)]  # noqa: RUF012

    def load_case(self, key: str) -> tuple[Any, Any, None, dict[str, Any]]:
        image = np.full((1, 1, 6, 5), float(key) + 1, np.float32)
        return image, np.where(image > 3, -1, 1).astype(np.int8), None, {}


def test_every_case_comes_once_before_any_comes_again() -> None:
    loader = CaseLoader(_Cases(), 2, (8, 8), seed=3)
    drawn = [key for number in range(7) for key in loader.keys_of(number)]
    assert sorted(drawn[:7]) == sorted(drawn[7:]) == _Cases.identifiers
    assert drawn[:7] != drawn[7:]


def test_batches_depend_on_their_number_alone() -> None:
    first, second = CaseLoader(_Cases(), 2, (8, 8), 3), CaseLoader(_Cases(), 2, (8, 8), 3)
    one = [next(first)["data"] for _ in range(5)]
    second.go_to(3)
    assert torch.equal(next(second)["data"], one[3])
    assert torch.equal(next(second)["data"], one[4])
    first.close()
    second.close()


def test_cases_lie_in_the_middle_of_black() -> None:
    batch = CaseLoader(_Cases(), 7, (8, 8), 0).batch(0)
    assert batch["data"].shape == batch["target"].shape == (7, 1, 8, 8)
    assert (batch["data"][..., 1:7, 1:6] > 0).all()
    assert batch["data"].sum() == batch["data"][..., 1:7, 1:6].sum()
    assert batch["target"].min() == 0  # nnU-Net's −1, outside the sector, is background


def test_of_larger_images_every_part_is_seen() -> None:
    loader = CaseLoader(_Cases(), 7, (4, 4), 0)
    assert loader.batch(0)["data"].shape == (7, 1, 4, 4)
    assert (loader.batch(0)["data"] > 0).all()


@pytest.mark.parametrize("sizes", [(100, 1800), (1600, 1800), (1600, 50), (7, 3)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_shares_hold_whatever_the_sizes(sizes: tuple[int, int], share: float) -> None:
    sources = {f"r{i}": {"images": ["../DatasetA/imagesTr/x"]} for i in range(sizes[0])}
    sources |= {f"s{i}": {"images": ["../DatasetB/imagesTr/x"]} for i in range(sizes[1])}
    drawn = repeated_cases(list(sources), sources, {"DatasetA": 1 - share, "DatasetB": share})
    assert len(Counter(drawn)) == sum(sizes)
    assert sum(c.startswith("s") for c in drawn) / len(drawn) == pytest.approx(share, abs=0.01)


def _splits(folder: Path, splits: list[dict[str, list[str]]]) -> Path:
    (folder / folds.SPLITS).write_text(json.dumps(splits))
    return folder


def test_folds_that_would_mix_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="by image"):
        folds.check(tmp_path, None, 0)
    good = {"train": ["a_2CH", "a_4CH"], "val": ["b_2CH"]}
    folds.check(_splits(tmp_path, [good]), None, 0)
    with pytest.raises(RuntimeError, match=r"fold 1: .* holds 1 \(0 to 0\)"):
        folds.check(tmp_path, None, 1)
    with pytest.raises(RuntimeError, match="0 validation cases"):
        folds.check(_splits(tmp_path, [good | {"val": []}]), None, 0)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "cases.csv").write_text("case,patient\na_2CH,a\na_4CH,a\nb_2CH,b\n")
    mixed = {"train": ["a_2CH"], "val": ["a_4CH", "b_2CH"]}
    with pytest.raises(RuntimeError, match="a and 0 more train and validate"):
        folds.check(_splits(tmp_path, [mixed]), raw, 0)
    _splits(raw, [good])
    with pytest.raises(RuntimeError, match="not the splits of"):
        folds.check(tmp_path, raw, 0)


def _plans(blocks: str) -> dict[str, Any]:
    configuration = {
        "architecture": _architecture(blocks),
        "normalization_schemes": ["ZScoreNormalization"],
        "patch_size": [48, 40],
        "data_identifier": "nnUNetPlans_2d",
        "batch_size": 2,
    }
    return {"configurations": {"2d": configuration}}


@pytest.mark.parametrize("blocks", ["n_conv_per_stage", "n_blocks_per_stage"])
def test_images_of_one_size_are_planned_whole(blocks: str) -> None:
    plans = _plans(blocks)
    assert not whole_images.takes_whole_images(plans, "2d")
    whole_images.plan_whole_images(plans, "2d", (256, 256))
    configuration = plans["configurations"]["2d"]
    assert configuration["patch_size"] == [256, 256]
    assert configuration["normalization_schemes"] == ["RescaleTo01Normalization"]
    assert configuration["architecture"]["arch_kwargs"]["n_stages"] == 7
    assert whole_images.takes_whole_images(plans, "2d")


@pytest.mark.parametrize("size", [(72, 184), (712, 448), (224, 224)])
@pytest.mark.parametrize("trainer", ["nnUNetTrainerEchoSynth_cpu", "nnUNetTrainerEchoSynth_cpu_pooled"])
def test_networks_at_half_resolution_take_oblong_images(trainer: str, size: tuple[int, int]) -> None:
    """nnU-Net plans 712 x 448 with seven halvings down and six across: 448 / 2 cannot be halved six times more."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_plugin import echosynth_trainers

    plans = _plans("n_conv_per_stage")
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8] * 4
    whole_images.plan_whole_images(plans, "2d", size)
    configuration = PlansManager(plans).get_configuration("2d")
    patch = configuration.patch_size
    assert all(side <= p < 2 * side for side, p in zip(size, patch, strict=True))
    cls = getattr(echosynth_trainers, trainer)
    network = cls.build_network_architecture(None, configuration, 1, 4, False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, *patch)).shape == (1, 4, *patch)


def test_images_of_many_sizes_keep_nnunets_grid() -> None:
    plans = _plans("n_conv_per_stage")
    whole_images.plan_whole_images(plans, "2d", None)
    configuration = plans["configurations"]["2d"]
    assert configuration["patch_size"] == [48, 40]
    assert configuration["normalization_schemes"] == ["RescaleTo01Normalization"]


def test_prepared_cases_alone_are_trained_on_as_with_the_raw_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's own plans, on a machine that holds preprocessed cases only: its grid must be that which they were prepared on."""
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    nothing = SimpleNamespace(run_case_save=lambda *_: None)
    monkeypatch.setattr(ConfigurationManager, "preprocessor_class", property(lambda _: lambda verbose: nothing))
    described = {"file_ending": ".nii.gz", "labels": {"background": 0, "heart": 1}}
    raw = tmp_path / "nnUNet_raw/Dataset601_A"
    for folder, file in (("imagesTr", "a_0000.nii.gz"), ("labelsTr", "a.nii.gz")):
        (raw / folder).mkdir(parents=True)
        write_image(raw / folder / file, np.ones((64, 96), np.uint8), (0.5, 0.5))
    (raw / "dataset.json").write_text(json.dumps(described))

    def trainer() -> nnUNetTrainerEchoSynth:
        plans = _plans("n_conv_per_stage") | {"dataset_name": raw.name, "plans_name": "P", "continue_training": False}
        kept = {"preprocessor_name": "D", "spacing": [0.4, 0.4], "resampling_fn_data": "R"}
        plans["configurations"]["2d"].update(kept)
        return nnUNetTrainerEchoSynth(plans, "2d", 0, described, torch.device("cpu"))

    with_raw = trainer()
    with_raw._preprocess_if_needed()
    raw.rename(tmp_path / "elsewhere")
    alone = trainer()
    alone._preprocess_if_needed()
    assert alone.configuration_manager.configuration == with_raw.configuration_manager.configuration
    assert alone.configuration_manager.patch_size == [64, 96]
    (note,) = (tmp_path / "nnUNet_preprocessed/Dataset601_A").glob("*_source.json")
    note.write_text(json.dumps({k: v for k, v in json.loads(note.read_text()).items() if k != "size"}))
    with pytest.raises(RuntimeError, match="prepared otherwise than these plans say"):
        trainer()._preprocess_if_needed()


def test_three_dimensions_are_refused() -> None:
    with pytest.raises(RuntimeError, match="found configuration '3d_fullres'; use 2d"):
        nnUNetTrainerEchoSynth({}, "3d_fullres", 0, {})


def test_cosine_falls_from_the_rate_to_nothing() -> None:
    trainer = SimpleNamespace(
        num_epochs=10, num_iterations_per_epoch=100, initial_lr=1.0, optimizer=SimpleNamespace(param_groups=[{"lr": 0}])
    )
    rates = []
    for trainer.iteration in range(1000):
        nnUNetTrainerEchoSynth._set_cosine_rate(trainer)  # type: ignore[arg-type]
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[500] == pytest.approx(0.5)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize(
    ("task", "node", "chosen", "threads"),
    [
        (None, None, None, 8),
        (None, "2", None, 2),
        ("2", "6", None, 2),
        ("99", "99", None, 8),
        (None, None, "3", 3),
        ("2", None, "3", 2),
    ],
)
def test_a_training_has_the_threads_of_its_slurm_job_or_fewer(
    task: str | None, node: str | None, chosen: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    given = {"SLURM_CPUS_PER_TASK": task, "SLURM_CPUS_ON_NODE": node, "ECHOSYNTH_NNUNET_THREADS": chosen}
    for name, value in given.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert overrides.threads() == threads
