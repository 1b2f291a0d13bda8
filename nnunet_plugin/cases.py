"""Cases of a raw dataset: where their files are, what they contain, and preprocessing that notices when that changes."""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_plugin.whole_images import Plans

_FACTS = "echosynth"  # key of dataset.json under which echosynth says what made a dataset
_SOURCE = "echosynth_source.json"  # in a training's folder, and at the end of a name beside preprocessed cases


def raw_folder(dataset: str) -> Path | None:
    """The raw dataset of that name, where this machine has it: a cluster may hold preprocessed cases alone."""
    if not nnUNet_raw.is_set():
        return None
    folder = Path(str(nnUNet_raw)) / dataset
    return folder if (folder / "dataset.json").is_file() else None


def current_files(dataset: str, planned: Mapping[str, Any]) -> dict[str, tuple[Path, Path]]:
    """`raw_files` of the dataset of that name; empty where this machine does not have it.

    Raises RuntimeError where its dataset.json is not `planned`, the one that it was planned with.
    """
    raw = raw_folder(dataset)
    if raw is None:
        return {}
    if without_facts(_read(raw / "dataset.json")) != without_facts(planned):
        raise RuntimeError(f"{raw / 'dataset.json'}: changed since the dataset was planned; plan it again")
    return raw_files(raw, planned)


def raw_files(raw: Path, dataset_json: Mapping[str, Any]) -> dict[str, tuple[Path, Path]]:
    """Image and label of every training and validation case of a raw dataset, by case."""
    own = copy.deepcopy(dict(dataset_json))  # nnU-Net makes the paths in it absolute, in place
    if "dataset" not in own:  # without the dozen processes that nnU-Net starts to sort file names
        ending = str(own["file_ending"])
        images = sorted((raw / "imagesTr").glob(f"*_0000{ending}"))
        names = [image.name.removesuffix(f"_0000{ending}") for image in images]
        return {n: (image, raw / "labelsTr" / f"{n}{ending}") for n, image in zip(names, images, strict=True)}
    listed = get_filenames_of_train_images_and_targets(str(raw), own)
    return {case: (Path(files["images"][0]), Path(files["label"])) for case, files in listed.items()}


def common_size(images: Sequence[Path]) -> tuple[int, int] | None:
    """(rows, columns) where all images have the same, read from their headers; None where they differ."""
    sizes = set()
    reader = sitk.ImageFileReader()
    for path in images:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        columns, rows = reader.GetSize()[:2]
        sizes.add((rows, columns))
        if len(sizes) > 1:
            return None
    return next(iter(sizes), None)


def content_hash(files: Mapping[str, tuple[Path, Path]]) -> str:
    """Hash of the images and labels of all cases with their names: another when any byte of any changes."""
    total = hashlib.sha256()
    for case in sorted(files):
        total.update(case.encode())
        for path in files[case]:
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def source_of(preprocessed: Path) -> dict[str, Any]:
    """What the cases in `preprocessed` were made from; empty for cases that nnU-Net's own command made."""
    return _read(_beside(preprocessed)) if preprocessed.is_dir() else {}


def prepared_size(dataset: str, identifier: str) -> tuple[int, int] | None:
    """(rows, columns) of all images that were preprocessed into `identifier` of a dataset; None where they differed, or it is not noted."""
    if not nnUNet_preprocessed.is_set():
        return None
    size = source_of(Path(str(nnUNet_preprocessed)) / dataset / identifier).get("size")
    return (int(size[0]), int(size[1])) if size else None


def check_prepared(plans: Plans, name: str, folder: Path) -> None:
    """Raise RuntimeError unless `folder` holds cases prepared as `plans` say; which images they are, only the raw dataset tells."""
    source = source_of(folder)
    if not source:
        raise RuntimeError(f"{folder}: no whole images prepared there, and nnUNet_raw does not hold the dataset")
    if source.get("configuration") != _essence(PlansManager(plans).get_configuration(name)):
        raise RuntimeError(
            f"{folder}: its cases were prepared otherwise than these plans say, and nnUNet_raw does not hold the dataset; "
            "prepare it again where nnUNet_raw does, by echosynth train-segmenter or by starting this training"
        )


def source_of_training(training: Path) -> dict[str, Any]:
    """What a training's cases were made from; empty where it is not noted."""
    return _read(training / _SOURCE)


def without_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """dataset.json but what it says of where the images come from: that changes no training."""
    return {key: value for key, value in description.items() if key != _FACTS}


def use_of(description: Mapping[str, Any], splits: Any) -> str:
    """Hash of how cases are used: of dataset.json (labels, shares) and the content of splits_final.json."""
    text = json.dumps([without_facts(description), splits], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def note_source(preprocessed: Path, training: Path, use: str) -> None:
    """Note in the folder of a training what its cases were made from, and how they are used, see `use_of`."""
    note = source_of(preprocessed) | {"use": use}
    (training / _SOURCE).write_text(json.dumps(note), encoding="utf-8")


def check_source(preprocessed: Path, training: Path, use: str) -> None:
    """Raise RuntimeError where a training saw other images or labels than are preprocessed now, or used them otherwise."""
    before, now = source_of_training(training), source_of(preprocessed) | {"use": use}
    if before and any(before.get(key) != now.get(key) for key in ("content", "use")):
        raise RuntimeError(
            f"{training}: trained on other images, labels, shares or splits than {preprocessed} holds now; train anew"
        )


def _beside(preprocessed: Path) -> Path:
    """nnU-Net wants nothing but cases in the folder itself."""
    return preprocessed.with_name(f"{preprocessed.name}_{_SOURCE}")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def preprocess(
    files: Mapping[str, tuple[Path, Path]],
    plans: Plans,
    name: str,
    dataset_json: Mapping[str, Any],
    folder: Path,
    workers: int,
) -> None:
    """Preprocess all cases into `folder`, which appears whole or not at all; the labels go beside it for validation.

    Args:
        files: by case, as `raw_files` gives them.
        workers: processes.
    """
    manager = PlansManager(plans)
    configuration = manager.get_configuration(name)
    _remove_leftovers(folder)
    partial = folder.with_name(f".partial-{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    preprocessor = configuration.preprocessor_class(verbose=False)
    tasks = [
        (str(partial / case), [str(image)], str(label), manager, configuration, dict(dataset_json))
        for case, (image, label) in files.items()
    ]
    try:
        if workers > 1 and len(tasks) > 50:
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                pool.starmap(preprocessor.run_case_save, tasks, chunksize=16)
        else:
            for task in tasks:
                preprocessor.run_case_save(*task)
        _keep_labels(files, folder.parent / "gt_segmentations", str(dataset_json["file_ending"]))
        source = {"content": content_hash(files), "configuration": _essence(configuration), "cases": len(files)}
        source["size"] = common_size([image for image, _ in files.values()])
        _beside(folder).unlink(missing_ok=True)  # cases without it count as not made
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
        partial_note = _beside(partial)
        partial_note.write_text(json.dumps(source), encoding="utf-8")
        os.replace(partial_note, _beside(folder))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """What killed processes left of `folder`; what a living one is filling stays."""
    for leftover in folder.parent.glob(f".partial-{folder.name}.*"):
        process = leftover.name.removesuffix(f"_{_SOURCE}").rpartition(".")[2]
        if process == str(os.getpid()) or not Path(f"/proc/{process}").exists():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def is_preprocessed(files: Mapping[str, tuple[Path, Path]], plans: Plans, name: str, folder: Path) -> bool:
    """Whether `folder` holds these very images and labels, prepared as `plans` say."""
    source = source_of(folder)
    configuration = PlansManager(plans).get_configuration(name)
    return source.get("configuration") == _essence(configuration) and source.get("content") == content_hash(files)


def _essence(configuration: ConfigurationManager) -> dict[str, Any]:
    """What of a configuration decides on preprocessed cases."""
    names = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data")
    return {n: configuration.configuration[n] for n in names}


def _keep_labels(files: Mapping[str, tuple[Path, Path]], folder: Path, ending: str) -> None:
    """nnU-Net's validation compares with these copies."""
    folder.mkdir(exist_ok=True)
    for case, (_, label) in files.items():
        shutil.copyfile(label, folder / f"{case}{ending}")
