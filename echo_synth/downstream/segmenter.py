"""Train and apply a segmenter: what must hold before nnU-Net starts, and what is noted beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from echo_synth.claims import claim, lock_beside, lock_in
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING, RawDataset
from echo_synth.downstream import nnunet
from echo_synth.downstream.weights import check_weights
from echo_synth.errors import DataError, ExistsError, RunError
from echo_synth.estimate import Estimate
from echo_synth.files import check_writable, write_json
from echo_synth.folders import new_folder
from echo_synth.records import read_json_as

SETTINGS = "settings.json"
_WEIGHTS_BYTES = 1 << 30  # three checkpoints of the planned network, at most
_MEMORY_BYTES = 4 << 30
_PLANNING_SECONDS = 3600.0  # to wait for another process that plans the same dataset
_CHECKPOINTS = (nnunet.FINAL, nnunet.LATEST, "checkpoint_best.pth")


@dataclass(frozen=True)
class SegmenterSettings:
    """What a training changes of its trainer; None leaves the trainer's own number.

    Attributes:
        epochs, iterations: length, see the plugin's `Budget`.
        seed: makes the training repeatable.
        flip: adds horizontal flips.
    """

    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None
    flip: bool = False

    def environment(self) -> dict[str, str]:
        """The plugin's environment variables."""
        given = {
            "EPOCHS": self.epochs,
            "ITERATIONS": self.iterations,
            "SEED": self.seed,
            "FLIP": int(self.flip) or None,
        }
        return {f"ECHOSYNTH_NNUNET_{name}": str(value) for name, value in given.items() if value is not None}


class _Started(BaseModel):
    """Of the settings.json of a training, what decides on its weights."""

    environment: dict[str, str] = {}


def check_training(dataset: RawDataset, trainer: str, environment: Mapping[str, str]) -> None:
    """Refuse a folder that holds another training: with other settings, or of other images or labels.

    Args:
        environment: of the training that is asked for, see `SegmenterSettings.environment`.

    Raises:
        RunError: no such trainer.
        ExistsError: names the folder and the first thing that differs.
    """
    nnunet.check_trainer(trainer)
    folder = nnunet.trained_folder(dataset.id, trainer)
    if not any((folder / name).is_file() for name in _CHECKPOINTS):
        return
    state = "a finished" if (folder / nnunet.FINAL).is_file() else "an unfinished"
    difference = _first_difference(folder, environment)
    if difference:
        raise ExistsError(
            f"{folder} holds {state} training with other settings ({difference}); "
            "repeat its command, remove the folder, or choose another --trainer"
        )
    trained_on = nnunet.trained_content(folder)
    if trained_on is not None and trained_on != nnunet.content_of(dataset):
        raise ExistsError(
            f"{folder} holds {state} training on other images, labels, shares or splits than {dataset.name} has now; "
            "remove it, or give the dataset another id"
        )


def _first_difference(folder: Path, environment: Mapping[str, str]) -> str | None:
    """ "epochs 400, asked for 7" where the training in `folder` was started with other settings."""
    file = folder / SETTINGS
    if not file.is_file():
        return None  # started by nnU-Net's own command
    started = read_json_as(_Started, file, "echosynth train-segmenter").environment
    for name in sorted(started.keys() | environment.keys()):
        before, now = started.get(name, "the trainer's"), environment.get(name, "the trainer's")
        if before != now:
            return f"{name.removeprefix('ECHOSYNTH_NNUNET_').lower()} {before}, asked for {now}"
    return None


def prepare(dataset: RawDataset, trainer: str) -> None:
    """Plan and preprocess the dataset, unless that was done with the images and labels that it has now."""
    with claim(lock_beside(nnunet.plans_file(dataset).parent), wait=_PLANNING_SECONDS):
        if not nnunet.is_planned(dataset.id):
            nnunet.plan_and_preprocess(dataset.id, log_file(dataset, trainer))


def training_images(trainer: str, settings: SegmenterSettings) -> int:
    """Images that a training sees, repeats counted."""
    budget = nnunet.trainer_budget(trainer)
    return (settings.epochs or budget.epochs) * (settings.iterations or budget.iterations) * budget.batch


def estimate_segmenter(dataset: RawDataset, trainer: str, settings: SegmenterSettings, device: str) -> Estimate:
    """Of `train_segmenter` on a dataset that is planned, from one step of one image."""
    seconds = nnunet.seconds_of_step(dataset.id, trainer, device) * training_images(trainer, settings)
    return Estimate(seconds, _WEIGHTS_BYTES, _MEMORY_BYTES)


def train_segmenter(
    dataset: RawDataset, trainer: str, settings: SegmenterSettings, device: str, resolved: Mapping[str, Any]
) -> Path:
    """Train fold 0 on a dataset that is planned already; continues an interrupted training.

    Args:
        resolved: what settings.json of the fold says; its "environment" is that of `settings`.

    Returns:
        the fold's folder, which holds the weights and nnU-Net's output, echosynth.log.

    Raises:
        ExistsError: see `check_training`.
        HeldError: another process trains it.
        RunError: nnU-Net failed.
    """
    check_training(dataset, trainer, settings.environment())
    folder = nnunet.trained_folder(dataset.id, trainer)
    with claim(lock_in(folder)):
        if (folder / nnunet.LATEST).is_file():
            check_weights(folder / nnunet.LATEST)
        write_json(folder / SETTINGS, dict(resolved))
        nnunet.train(dataset.id, trainer, log_file(dataset, trainer), device, settings.environment())
    return folder


def log_file(dataset: RawDataset, trainer: str) -> Path:
    """Where nnU-Net's output goes."""
    return nnunet.trained_folder(dataset.id, trainer) / "echosynth.log"


def images_in(images: Path | Sequence[Path]) -> list[Path]:
    """Files CASE_0000.nii.gz of a folder, hidden ones left out, or those given. Raises DataError when there are none."""
    if not isinstance(images, Path):
        return list(images)
    files = sorted(p for p in images.glob(f"*_0000{ENDING}") if not p.name.startswith("."))
    if not files:
        raise DataError(f"{images}: no *_0000{ENDING} files; expected a folder such as imagesTs of a raw dataset")
    return files


def check_images(files: Sequence[Path], size: tuple[int, int] | None) -> None:
    """Read every image before any is segmented.

    Args:
        size: (rows, columns) that the segmenter was trained on; None takes any.

    Raises DataError, which names the file, for one that is damaged, no grey 2-D image, or of another size.
    """
    for file in files:
        rows, columns = read_image(file).pixels.shape
        if size is not None and (rows, columns) != size:
            square = f"convert the images with 'echosynth convert-camus --size {size[0]}' first"
            mend = square if size[0] == size[1] else "expected images of that size"
            raise DataError(
                f"{file}: has {rows} x {columns} pixels, the segmenter was trained on {size[0]} x {size[1]}; {mend}"
            )


def predict_segmenter(
    dataset_id: int,
    trainer: str,
    images: Path | Sequence[Path],
    out: Path,
    device: str = "cpu",
    overwrite: bool = False,
    resolved: Mapping[str, Any] | None = None,
) -> int:
    """Segment images with fold 0's final weights; `out` appears complete or not at all.

    Args:
        images: files CASE_0000.nii.gz, or a folder of them.
        resolved: content of `out`/settings.json; None writes none.

    Returns:
        number of masks.

    Raises:
        DataError: no images, or one that cannot be segmented.
        RunError: not trained to the end, or on other images than the dataset holds now.
        ExistsError: `out` exists and may not be replaced.
    """
    nnunet.check_trainer(trainer)
    dataset = nnunet_raw.find(dataset_id)
    folder = nnunet.trained_folder(dataset_id, trainer)
    files = images_in(images)
    if not (folder / nnunet.FINAL).is_file():
        command = f"echosynth train-segmenter --dataset-id {dataset_id} --trainer {trainer}"
        raise RunError(f"{folder / nnunet.FINAL}: missing; run '{command}' first")
    trained_on = nnunet.trained_content(folder)
    if trained_on is not None and trained_on != nnunet.content_of(dataset):
        raise RunError(
            f"{folder} was trained on other images, labels, shares or splits than {dataset.name} has now; remove it and train again"
        )
    check_weights(folder / nnunet.FINAL)
    check_images(files, nnunet.image_size(folder))
    check_writable(out.absolute().parent)
    inputs = [images] if isinstance(images, Path) else []
    with new_folder(out.absolute(), "predict-segmenter", overwrite, inputs) as target:
        nnunet.predict(dataset_id, trainer, files, target, log_file(dataset, trainer), device)
        if resolved is not None:
            write_json(target / SETTINGS, dict(resolved))
    return len(files)
