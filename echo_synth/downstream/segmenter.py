"""Train and apply a segmenter: what must hold before nnU-Net starts, and what is noted beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from echo_synth import checksums
from echo_synth.claims import claim, lock_beside, lock_in
from echo_synth.data import nnunet_raw
from echo_synth.data.leakage import refuse_patients_of
from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import ENDING, RawDataset
from echo_synth.downstream import nnunet
from echo_synth.downstream.weights import Weights, check_weights, fingerprint, read_weights, start_from
from echo_synth.errors import DataError, ExistsError, RunError
from echo_synth.estimate import Estimate
from echo_synth.files import listed, write_json
from echo_synth.folders import check_target, mark, new_folder
from echo_synth.home import nnunet_folder
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


class _Init(BaseModel):
    """Of the settings.json of a training: what its weights began with."""

    hash: str


class _Started(BaseModel):
    """Of the settings.json of a training: what decides on its weights, and what it saw."""

    environment: dict[str, str] = {}
    init: _Init | None = None
    dataset: str | None = None
    budget: dict[str, int | float | str | bool] = {"optimizer": "adam"}  # of trainings before budgets were recorded


def _read_settings(file: Path) -> _Started:
    return read_json_as(_Started, file, "echosynth train-segmenter")


@dataclass(frozen=True)
class StartingWeights:
    """Weights of another segmenter, which a training starts from."""

    file: Path
    weights: Weights = field(repr=False)
    hash: str

    def record(self) -> dict[str, str]:
        """What settings.json says of them."""
        return {"file": str(self.file), "hash": self.hash}


def read_initial(place: Path, dataset: RawDataset) -> StartingWeights:
    """Weights to start a training on `dataset` from.

    Args:
        place: nnU-Net's folder of a fold or of all folds, or a checkpoint file in one.

    Raises:
        RunError: no finished training there, or a checkpoint that is damaged or holds anything but weights.
        LeakageError: it was trained on test patients of `dataset`, as far as its data can be found.
    """
    options = (place, place / nnunet.FINAL, place / f"fold_{nnunet.FOLD}" / nnunet.FINAL)
    file = next((option for option in options if option.is_file()), None)
    if file is None:
        raise RunError(
            f"--init {place}: no {nnunet.FINAL} there; expected a checkpoint or the folder of a finished training, "
            f"such as {nnunet_folder('nnUNet_results')}/DATASET/TRAINER__{nnunet.PLANS}__{nnunet.CONFIGURATION}/fold_0"
        )
    _refuse_leak(file, dataset)
    weights = read_weights(file)
    return StartingWeights(file.absolute(), weights, fingerprint(weights))


def _refuse_leak(file: Path, dataset: RawDataset) -> None:
    settings = file.parent / SETTINGS
    named = _read_settings(settings).dataset if settings.is_file() else None
    if named is not None and (Path(named) / "cases.csv").is_file():
        cases = RawDataset(Path(named)).cases()
        trained = cases.loc[cases["split"] != "test", "patient"]
        refuse_patients_of(dataset, trained, f"training data of --init {file} ({named})")


def check_training(
    dataset: RawDataset, trainer: str, environment: Mapping[str, str], init: StartingWeights | None = None
) -> None:
    """Refuse a folder that holds another training: with other settings, or of other images or labels.

    Args:
        environment: of the training that is asked for, see `SegmenterSettings.environment`.
        init: weights that it starts from.

    Raises:
        RunError: no such trainer.
        ExistsError: names the folder and the first thing that differs.
    """
    nnunet.check_trainer(trainer)
    folder = nnunet.trained_folder(dataset.id, trainer)
    if not any((folder / name).is_file() for name in _CHECKPOINTS):
        return
    state = "a finished" if (folder / nnunet.FINAL).is_file() else "an unfinished"
    difference = _first_difference(folder, trainer, environment, init)
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


def _first_difference(
    folder: Path, trainer: str, environment: Mapping[str, str], init: StartingWeights | None
) -> str | None:
    """ "epochs 400, asked for 7" where the training in `folder` was started with other settings, or by a trainer that is another now."""
    file = folder / SETTINGS
    if not file.is_file():
        return None  # started by nnU-Net's own command
    settings = _read_settings(file)
    started, begun_with = settings.environment, settings.init.hash if settings.init else "none"
    now_with = init.hash if init else "none"
    if begun_with != now_with:
        return f"initial weights {begun_with}, asked for {now_with}"
    for name in sorted(started.keys() | environment.keys()):
        before, now = started.get(name, "the trainer's"), environment.get(name, "the trainer's")
        if before != now:
            return f"{name.removeprefix('ECHOSYNTH_NNUNET_').lower()} {before}, asked for {now}"
    own = asdict(nnunet.trainer_budget(trainer))
    for name, then in settings.budget.items():
        if own.get(name, then) != then:
            return f"{trainer} had {name} {then} then and has {own[name]} now"
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
    dataset: RawDataset,
    trainer: str,
    settings: SegmenterSettings,
    device: str,
    resolved: Mapping[str, Any],
    init: StartingWeights | None = None,
) -> Path:
    """Train fold 0 on a dataset that is planned already; continues an interrupted training.

    Args:
        resolved: what settings.json of the fold says; its "environment" is that of `settings`, its "init" that of `init`.
        init: weights to start from; a training that goes on keeps its own.

    Returns:
        the fold's folder, which holds the weights and nnU-Net's output, echosynth.log.

    Raises:
        ExistsError: see `check_training`.
        HeldError: another process trains it.
        RunError: nnU-Net failed, or `init` is of another network.
    """
    check_training(dataset, trainer, settings.environment(), init)
    folder = nnunet.trained_folder(dataset.id, trainer)
    with claim(lock_in(folder)):
        if (folder / nnunet.LATEST).is_file():
            check_weights(folder / nnunet.LATEST)
        write_json(folder / SETTINGS, dict(resolved) | {"budget": asdict(nnunet.trainer_budget(trainer))})
        begin = partial(start_from, weights=init.weights, file=init.file) if init else None
        nnunet.train(dataset.id, trainer, log_file(dataset, trainer), device, settings.environment(), begin)
    return folder


def log_file(dataset: RawDataset, trainer: str) -> Path:
    """Where nnU-Net's output goes."""
    return nnunet.trained_folder(dataset.id, trainer) / "echosynth.log"


def images_in(images: Path | Sequence[Path]) -> list[Path]:
    """Files CASE_0000.nii.gz of a folder, hidden ones left out, or those given. Raises DataError when there are none."""
    if not isinstance(images, Path):
        return list(images)
    files = listed(images, f"*_0000{ENDING}")
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


def check_prediction(
    dataset: RawDataset, trainer: str, images: Path | Sequence[Path], out: Path, overwrite: bool
) -> list[Path]:
    """The images that `predict_segmenter` is to segment, each of which was read; raises as it does, and writes nothing."""
    nnunet.check_trainer(trainer)
    folder = nnunet.trained_folder(dataset.id, trainer)
    files = images_in(images)
    if not (folder / nnunet.FINAL).is_file():
        command = f"echosynth train-segmenter --dataset-id {dataset.id} --trainer {trainer}"
        raise RunError(f"{folder / nnunet.FINAL}: missing; run '{command}' first")
    trained_on = nnunet.trained_content(folder)
    if trained_on is not None and trained_on != nnunet.content_of(dataset):
        raise RunError(
            f"{folder} was trained on other images, labels, shares or splits than {dataset.name} has now; remove it and train again"
        )
    check_weights(folder / nnunet.FINAL)
    check_images(files, nnunet.image_size(folder))
    inputs = [images] if isinstance(images, Path) else []
    check_target(out.absolute(), "predict-segmenter", overwrite, inputs, "another --out")
    return files


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
    dataset = nnunet_raw.find(dataset_id)
    files = check_prediction(dataset, trainer, images, out, overwrite)
    inputs = [images] if isinstance(images, Path) else []
    with new_folder(out.absolute(), "predict-segmenter", overwrite, inputs) as target:
        nnunet.predict(dataset_id, trainer, files, target, log_file(dataset, trainer), device)
        if resolved is not None:
            write_json(target / SETTINGS, dict(resolved))
        mark(target, "predict-segmenter")
        checksums.record(target)  # by which --overwrite tells what came later
    return len(files)
