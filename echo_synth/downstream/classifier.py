"""The view classifier: 2CH or 4CH from one image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth import checksums
from echo_synth.data.augment import ColourRanges, GeometricRanges, colour, draw_affine, draw_colour, warp
from echo_synth.data.leakage import refuse_test_patients
from echo_synth.data.png import read_grey_png
from echo_synth.data.resize import resize_grey
from echo_synth.data.subject import Subject, heart, subject_of
from echo_synth.device import to_device
from echo_synth.errors import DataError, RunError
from echo_synth.estimate import Estimate, measured_seconds
from echo_synth.files import listed
from echo_synth.home import classification
from echo_synth.records import read_json_as
from echo_synth.runs.description import ClassifierDescription, InitialWeights, build_model, describe_classifier
from echo_synth.runs.folder import ClassifierRun, file_hash, open_run
from echo_synth.runs.start import RunRequest, hold_run_folder, start_run
from echo_synth.runs.tensors import load_weights
from echo_synth.specs import ClassifierArchitecture, TrainingSpec
from echo_synth.training.loop import Engine
from echo_synth.training.streams import Stream, generator, sample_indices
from echo_synth.types import VIEWS, CaseId

_FRAMEWORK_BYTES = 600 << 20  # torch and its libraries
_COLOURS = 3
_BYTES_PER_PIXEL = 2000  # that the backward pass of EfficientNetV2-S keeps of an image


@dataclass(frozen=True)
class Pictures:
    """A split of a classification folder in memory: pixels (N, R, R) uint8, classes (N,), names, what is seen."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    names: list[str]
    subject: Subject = field(default_factory=heart)

    def fingerprint(self) -> str:
        """Changes when any pixel, class, name or the order does."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        digest.update(self.classes.tobytes())
        digest.update(self.pixels.tobytes())
        return digest.hexdigest()[:16]


def subject_of_pictures(images: Path) -> Subject:
    """What a classification folder shows. Raises DataError where that is one view, from which nothing can be told."""
    subject = subject_of(images)
    if len(subject.views) < 2:
        raise DataError(f"{images}: all images show the view '{subject.views[0]}'; a view classifier needs two")
    return subject


def check_pictures(images: Path) -> Subject:
    """What a classification folder shows, without reading a pixel.

    Raises DataError when it shows one view alone, a split has no images or training none of a view, a name is no case's, or two
    splits, that for tests among them, have images of one patient.
    """
    subject = subject_of_pictures(images)
    train, val = (_picture_files(images / split, subject) for split in ("train", "val"))
    names, others = ([path.stem for path, _ in files] for files in (train, val))
    check_patients_apart(names, others, subject, "val")
    for split, learnt in (("train", names), ("val", others)):
        check_patients_apart(learnt, _names_in(images, ("test",), subject), subject, "test", split)
    labels = {label for _, label in train}
    if len(labels) < len(subject.views):
        lacking = next(view for label, view in enumerate(subject.views) if label not in labels)
        raise DataError(
            f"{images / 'train' / lacking}: no images; expected {' and '.join(subject.views)} to learn from"
        )
    return subject


def _picture_files(folder: Path, subject: Subject) -> list[tuple[Path, int]]:
    """Files of a split with the numbers of their views. Raises DataError when there are none."""
    files = [(path, label) for label, view in enumerate(subject.views) for path in listed(folder / view, "*.png")]
    if not files:
        expected = " and ".join(f"{folder}/{v}/*.png" for v in subject.views)
        raise DataError(
            f"{folder}: no images; expected {expected}; name a classification folder, not a raw dataset "
            f"(by default they are in {classification()})"
        )
    return files


def _names_in(images: Path, splits: Sequence[str], subject: Subject) -> list[str]:
    """Names of the images of some splits, where there are any."""
    folders = (images / split / view for split in splits for view in subject.views)
    return [path.stem for folder in folders for path in listed(folder, "*.png")]


def read_pictures(folder: Path, resolution: int, subject: Subject | None = None) -> Pictures:
    """All FOLDER/VIEW/*.png of the views of `subject`, by default 2CH and 4CH, on a square grid.

    Raises DataError when there are none, or one is unreadable.
    """
    subject = subject or heart()
    files = _picture_files(folder, subject)
    pixels = np.empty((len(files), resolution, resolution), np.uint8)
    for i, (path, _) in enumerate(files):
        pixels[i] = resize_grey(read_grey_png(path), (resolution, resolution))
    return Pictures(pixels, np.asarray([label for _, label in files]), [path.stem for path, _ in files], subject)


def patient_of(name: str, subject: Subject) -> str:
    """Patient of an image's name. Raises DataError for a name that is no case's."""
    try:
        return CaseId.parse(name, subject.views, subject.phases).patient
    except DataError as e:
        raise DataError(f"{name}.png: {e}; rename the images of the classification folder so") from None


def check_patients_apart(
    train: Sequence[str], other: Sequence[str], subject: Subject, what: str, first: str = "train"
) -> None:
    """Raise DataError when images of both sets, given by their names, are of one patient."""
    shared = {patient_of(name, subject) for name in train} & {patient_of(name, subject) for name in other}
    if shared:
        raise DataError(
            f"{sorted(shared)[0]} and {len(shared) - 1} more are in {first} and in {what}; splits must not share patients"
        )


def normalise(pixels: Tensor) -> Tensor:
    """Grey levels 0..255 to about [−1, 1], (N, 1, R, R) float32; the background becomes −1."""
    return pixels.float() / 127.5 - 1


class ClassifierTask:
    """Batches, loss and validation of the classifier."""

    def __init__(self, train: Pictures, val: Pictures, device: str, seed: int) -> None:
        self.train, self.val, self.device, self.seed = train, val, device, seed

    def loss(self, module: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        """Cross-entropy of one micro-batch; what changes its images is drawn here and carried out on the device."""
        rows = sample_indices(self.seed, positions, len(self.train.classes))
        images = to_device(self.train.pixels[rows], self.device)[:, None].float() / 255
        generators = [generator(self.seed, p, Stream.AUGMENTATION) for p in positions]
        matrices = torch.stack([draw_affine(g, GeometricRanges(flip=0.0)) for g in generators])
        colours = torch.stack([draw_colour(g, ColourRanges()) for g in generators])
        images = warp(images, matrices, "bilinear")
        images = colour(images, (images > 0).float(), colours)
        logits = module(normalise(images * 255))
        target = to_device(self.train.classes[rows], self.device)
        return {"loss": F.cross_entropy(logits.float(), target)}

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Cross-entropy and accuracy on the validation images."""
        probability = probabilities(module, self.val.pixels, self.device)
        truth = self.val.classes
        likelihood = np.where(truth == 1, probability, 1 - probability)
        return {
            "loss": float(-np.log(np.clip(likelihood, 1e-7, 1)).mean()),
            "accuracy": float(((probability >= 0.5) == truth).mean()),
        }


@torch.no_grad()
def probabilities(module: nn.Module, pixels: NDArray[np.uint8], device: str, batch: int = 32) -> NDArray[np.float64]:
    """Probability of 4CH for each image (N, R, R), (N,)."""
    module.eval()
    parts = []
    for start in range(0, len(pixels), batch):
        x = normalise(to_device(pixels[start : start + batch], device)[:, None])
        parts.append(module(x).float().softmax(1)[:, 1].cpu().numpy())
    result: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
    return result


@dataclass(frozen=True)
class ClassifierSettings:
    """Resolved settings of one training.

    Attributes:
        architecture: timm's name.
        resolution: side of the images, pixels.
        training: length, batch and rate.
        precision: fp32, bf16 or fp16.
        pretrained: safetensors file with timm's names to start from, or None.
        init: run folder of another view classifier to start from, or None.
    """

    architecture: ClassifierArchitecture
    resolution: int
    training: TrainingSpec
    seed: int
    precision: str
    device: str
    pretrained: Path | None = None
    init: Path | None = None


def train_classifier(
    images: Path, request: RunRequest, settings: ClassifierSettings, resolved: Mapping[str, Any]
) -> Mapping[str, float]:
    """Train on IMAGES/train, choose by IMAGES/val; returns the best validation's numbers: loss, accuracy, images.

    Args:
        request: for the run folder, and whether a run in it is continued or replaced.
        resolved: what settings.json says.

    Raises:
        DataError: a split is missing, shares patients with another, or holds files of other names.
        LeakageError: the run to start from learnt from test patients of IMAGES, as far as its images can be found.
        RunError: the run to be resumed was started with other settings or other images.
        ExistsError: another process has ended a training in the folder meanwhile, and it was not asked to be replaced.
        HeldError: another process trains in the folder.
    """
    side, subject = settings.resolution, check_pictures(images)
    train, val = (read_pictures(images / split, side, subject) for split in ("train", "val"))
    description = describe_classifier(settings.architecture, side, subject.views).model_copy(
        update={"trained_on": images.resolve().name}
    )
    module = build_model(description, settings.seed)
    if settings.pretrained is not None:
        _load_backbone(module, settings.pretrained)
    identity = _identity(settings, train, val)
    if settings.init is not None:
        _refuse_leak(settings.init, images, subject)
        init = start_from_run(module, description, settings.init)
        description, identity = description.model_copy(update={"init": init}), identity | {"init": init.weights}
    with hold_run_folder(request) as folder:
        start_run(folder, description, resolved, identity, request.resume)
        module.to(settings.device).to(memory_format=torch.channels_last)
        task = ClassifierTask(train, val, settings.device, settings.seed)
        engine = Engine(
            module,
            task.loss,
            task.validate,
            settings.training,
            folder,
            settings.seed,
            identity,
            settings.precision,
            settings.device,
            validations=10,
        )
        best = engine.run(request.resume)
        checksums.record(folder)
        return best


def estimate_classifier(settings: ClassifierSettings) -> Estimate:
    """Of `train_classifier` with these settings, from one step of two random images."""
    side, pair = settings.resolution, 2
    pictures = Pictures(np.zeros((pair, side, side), np.uint8), np.arange(pair), ["a", "b"])
    task = ClassifierTask(pictures, pictures, settings.device, settings.seed)
    module = build_model(describe_classifier(settings.architecture, side, VIEWS)).to(settings.device)
    module.to(memory_format=torch.channels_last).train()

    def step() -> None:
        task.loss(module, range(pair))["loss"].backward()

    wait = torch.cuda.synchronize if settings.device.startswith("cuda") else (lambda: None)
    seconds = measured_seconds(step, wait) / pair * settings.training.images
    parameters = sum(p.numel() for p in module.parameters()) * 4
    memory = _FRAMEWORK_BYTES + 5 * parameters + settings.training.batch * _BYTES_PER_PIXEL * side**2
    return Estimate(seconds, 4 * parameters, memory)


def _identity(settings: ClassifierSettings, train: Pictures, val: Pictures) -> dict[str, Any]:
    """What a resumed run must share with its beginning: settings, and images by content."""
    start = file_hash(settings.pretrained) if settings.pretrained else None
    return {
        "architecture": settings.architecture,
        "resolution": settings.resolution,
        "pictures": {"train": train.fingerprint(), "val": val.fingerprint()},
        "weights": start,
        "init": None,
        **settings.training.model_dump(include={"batch", "lr", "images"}),
        "seed": settings.seed,
    }


class _Trained(BaseModel):
    """Of a run's settings.json: the images that it learnt."""

    images: Path | None = None


def _refuse_leak(init: Path, images: Path, subject: Subject) -> None:
    """Raise LeakageError when the run `init` learnt from test patients of `images`, as far as its own images can be found."""
    held_out = {patient_of(name, subject) for name in _names_in(images, ("test",), subject)}
    settings = init / "settings.json"
    learnt = read_json_as(_Trained, settings, "echosynth train-classifier").images if settings.is_file() else None
    if learnt is None or not learnt.is_dir():
        return
    shown = subject_of(learnt)
    patients = (patient_of(name, shown) for name in _names_in(learnt, ("train", "val"), shown))
    refuse_test_patients(patients, held_out, f"training images of --init {init} ({learnt})")


def start_from_run(module: nn.Module, description: ClassifierDescription, folder: Path) -> InitialWeights:
    """Give `module` the weights of the classifier in `folder`; returns what model.json says of them.

    Raises RunError unless it is a view classifier of the same architecture.
    """
    run = open_run(folder, "classifier")
    theirs = run.description
    for name in ("architecture", "classes"):
        if getattr(theirs, name) != getattr(description, name):
            raise RunError(
                f"--init {folder}: its {name} is {getattr(theirs, name)}, expected {getattr(description, name)}; "
                "choose a run that 'echosynth train-classifier' made"
            )
    load_weights(module, run.weights)
    return InitialWeights(model=theirs.model, weights=run.hash(), share=1.0)


def _load_backbone(module: nn.Module, path: Path) -> None:
    """Weights of everything but the head, from a local safetensors file with timm's names.

    Filters of colours are added up over them: what they answer to a grey image as three equal colours.
    """
    from echo_synth.runs.tensors import load_tensors

    tensors, _ = load_tensors(path)
    own = module.state_dict()
    for name in own.keys() & tensors.keys():
        if own[name].ndim == 4 and (own[name].shape[1], tensors[name].shape[1:2]) == (1, (_COLOURS,)):
            tensors[name] = tensors[name].sum(1, keepdim=True)
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    if len(fitting) < len(own) / 2:
        raise RunError(
            f"{path}: fits {len(fitting)} of {len(own)} tensors of this architecture; is it of the same one?"
        )
    module.load_state_dict(own | fitting)


def predict_views(run: ClassifierRun, images: Path, device: str) -> pd.DataFrame:
    """Probability of each class for the test images below `images` (or `images`/test).

    Returns:
        columns image, patient, view, probability_4CH, or of the second view of another dataset.

    Raises:
        RunError: the run's classes are others, or in another order.
        DataError: no images.
    """
    subject = subject_of_pictures(images)
    if run.description.classes != subject.views:
        raise RunError(f"{run.folder}: classes are {list(run.description.classes)}, expected {list(subject.views)}")
    folder = images / "test" if (images / "test").is_dir() else images
    pictures = read_pictures(folder, run.description.resolution, subject)
    module = run.load().to(device).to(memory_format=torch.channels_last)
    probability = probabilities(module, pictures.pixels, device)
    columns = {
        "image": pictures.names,
        "patient": [patient_of(n, subject) for n in pictures.names],
        "view": [subject.views[c] for c in pictures.classes],
        f"probability_{subject.views[1]}": probability,
    }
    return pd.DataFrame(columns)
