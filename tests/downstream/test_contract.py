"""What the plugin takes from nnU-Net, so that a version which changes it fails here and not in a training."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.experiment_planning import verify_dataset_integrity
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities import utils

from echo_synth.downstream import nnunet
from nnunet_plugin import cases
from nnunet_plugin.echosynth_trainers import nnUNetTrainerEchoSynth


def test_the_version_is_one_that_was_tried() -> None:
    assert importlib.metadata.version("nnunetv2").startswith("2.8.")


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (nnUNetTrainer.__init__, ["plans", "configuration", "fold", "dataset_json", "device"]),
        (nnUNetTrainer.save_checkpoint, ["filename"]),
        (nnUNetTrainer.perform_actual_validation, ["save_probabilities"]),
        (nnUNetTrainer.train_step, ["batch"]),
        (nnUNetTrainer.validation_step, ["batch"]),
        (nnUNetTrainer.initialize, []),
        (nnUNetTrainer.configure_optimizers, []),
        (nnUNetTrainer.do_split, []),
        (nnUNetTrainer.get_tr_and_val_datasets, []),
        (nnUNetTrainer.get_dataloaders, []),
        (nnUNetTrainer._get_deep_supervision_scales, []),
        (nnUNetTrainer.load_checkpoint, ["filename_or_checkpoint"]),
        (
            nnUNetTrainer.build_network_architecture,
            [
                "plans_manager",
                "configuration_manager",
                "num_input_channels",
                "num_output_channels",
                "enable_deep_supervision",
            ],
        ),
        (
            run_training.get_trainer_from_args,
            [
                "dataset_name_or_id",
                "configuration",
                "fold",
                "trainer_name",
                "plans_identifier",
                "continue_training",
                "device",
            ],
        ),
        (
            run_training.maybe_load_checkpoint,
            ["nnunet_trainer", "continue_training", "validation_only", "pretrained_weights_file"],
        ),
        (
            DefaultPreprocessor.run_case_save,
            [
                "output_filename_truncated",
                "image_files",
                "seg_file",
                "plans_manager",
                "configuration_manager",
                "dataset_json",
            ],
        ),
    ],
)
def test_what_is_overridden_or_called_takes_the_same(function: object, parameters: list[str]) -> None:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    assert [p for p in signature.parameters if p != "self"] == parameters


def test_predictor_takes_lists_of_files() -> None:
    """By place; probabilities are not saved and what is there is replaced, unless asked for otherwise."""
    parameters = inspect.signature(nnUNetPredictor.predict_from_files_sequential).parameters
    assert list(parameters)[1:3] == [
        "list_of_lists_or_source_folder",
        "output_folder_or_list_of_truncated_output_files",
    ]
    assert not parameters["save_probabilities"].default
    assert parameters["overwrite"].default
    assert hasattr(nnUNetPredictor, "predict_logits_from_preprocessed_data")


def test_planning_takes_its_pools_of_processes_from_where_threads_are_put() -> None:
    for module in (verify_dataset_integrity, fingerprint_extractor):
        assert 'multiprocessing.get_context("spawn").Pool(' in inspect.getsource(module)
    assert "with Pool(processes=" in inspect.getsource(utils)


def test_a_fingerprint_takes_as_many_grey_levels_as_it_is_told() -> None:
    source = inspect.getsource(fingerprint_extractor)
    assert "self.num_foreground_voxels_for_intensitystats //" in source
    own = nnunet._extractor()
    assert issubclass(own, fingerprint_extractor.DatasetFingerprintExtractor)


def test_cases_are_listed_as_nnunet_lists_them(tmp_path: Path) -> None:
    for name in ("b_2CH", "a_4CH", "a_2CH"):
        for file in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz", f"imagesTr/._{name}.txt"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
    listed = utils.get_filenames_of_train_images_and_targets(str(tmp_path), {"file_ending": ".nii.gz"})
    theirs = {case: (Path(files["images"][0]), Path(files["label"])) for case, files in listed.items()}
    assert list(cases.raw_files(tmp_path, {"file_ending": ".nii.gz"}).items()) == list(theirs.items())
    assert len(theirs) == 3


def test_the_picture_of_losses_is_drawn_after_every_fifth_epoch_and_the_last() -> None:
    """nnU-Net draws it after every one, by the logger's function of that name."""
    assert "self.logger.plot_progress_png(self.output_folder)" in inspect.getsource(nnUNetTrainer.on_epoch_end)
    drawn: list[int] = []
    trainer = SimpleNamespace(num_epochs=12, save_every=5)
    trainer._plot = lambda folder: drawn.append(trainer.current_epoch)
    for trainer.current_epoch in range(12):
        nnUNetTrainerEchoSynth._plot_now_and_then(trainer, "folder")  # type: ignore[arg-type]
    assert drawn == [4, 9, 11]


def test_a_name_for_no_resampling_exists() -> None:
    assert recursive_find_resampling_fn_by_name("no_resampling_hack")("same", None, None, None) == "same"


@pytest.mark.parametrize(("asked", "trains_on"), [("cuda:1", "cuda:1"), ("cuda", "cuda:0"), ("cpu", "cpu")])
def test_the_device_that_was_asked_for_is_trained_on(
    asked: str, trains_on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's trainer makes cuda:0 of every GPU when it is built."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    monkeypatch.setattr(nnunet, "trained_folder", lambda *_: tmp_path / "fold_0")
    seen: list[torch.device] = []

    def build(*_: object, device: torch.device, **__: object) -> SimpleNamespace:
        trainer = SimpleNamespace(num_epochs=1, num_iterations_per_epoch=1, current_epoch=0, train_step=lambda _: None)
        trainer.device = torch.device("cuda", 0) if device.type == "cuda" else device
        trainer.run_training = lambda: seen.append(trainer.device)
        trainer.perform_actual_validation = lambda _: None
        return trainer

    monkeypatch.setattr(run_training, "get_trainer_from_args", build)
    monkeypatch.setattr(run_training, "maybe_load_checkpoint", lambda *_: None)
    nnunet.train(601, "T", tmp_path / "log.txt", asked)
    assert [str(d) for d in seen] == [trains_on]
    assert "index=0" in inspect.getsource(nnUNetTrainer.__init__)  # else `nnunet.train` need not mend it
