"""nnU-Net in this process: its own functions with the right environment, one progress bar, its talk in a log.

What runs is what nnU-Net's commands run, so plans, weights and predictions are the same.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from echo_synth.data import nnunet_raw
from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import DataError, RunError
from echo_synth.files import check_writable, read_json
from echo_synth.folders import new_folder
from echo_synth.home import NNUNET_FOLDERS, nnunet_folder, plugin_folder
from echo_synth.parallel import available_cores
from echo_synth.progress import Meter, output_to

PLANS, CONFIGURATION, FOLD = "nnUNetPlans", "2d", 0
FINAL, LATEST = "checkpoint_final.pth", "checkpoint_latest.pth"


def environment() -> dict[str, str]:
    """What `echosynth env` prints, on top of the present environment; folders are made."""
    cores = available_cores()
    values = {name: str(nnunet_folder(name)) for name in NNUNET_FOLDERS}
    for folder in values.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    values["nnUNet_extTrainer"] = str(plugin_folder())
    values["nnUNet_n_proc_DA"] = str(max(1, min(12, cores // 2)))
    values["nnUNet_def_n_proc"] = str(max(1, min(8, cores // 2)))
    if cores <= 4:
        values["OMP_NUM_THREADS"] = str(max(1, cores - 1))
    return values


@contextmanager
def _nnunet(log: Path, extra: dict[str, str] | None = None) -> Iterator[TextIO]:
    """nnU-Net's environment around a piece of work, its output appended to `log`; yields where people watch.

    Raises RunError with the log's name for whatever nnU-Net raises, and when nnU-Net was loaded
    with other folders in this process: it reads them once.
    """
    wanted = environment() | (extra or {})
    before = {k: os.environ.get(k) for k in wanted}
    os.environ.update(wanted)
    try:
        with output_to(log) as watching:
            from nnunetv2 import paths

            for name in NNUNET_FOLDERS:
                if Path(getattr(paths, name)) != Path(wanted[name]):
                    raise RunError(f"{name} was {getattr(paths, name)} when this process began, now {wanted[name]}; start a new one")  # fmt: skip
            yield watching
    except (RunError, DataError):
        raise
    except (Exception, SystemExit) as e:
        words = " ".join(str(e).split())
        raise RunError(f"nnU-Net failed: {type(e).__name__}: {words:.200}; its output is in {log}") from e
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def check_trainer(name: str) -> None:
    """Raises RunError when the plugin has no trainer of that name."""
    text = (plugin_folder() / "echosynth_trainers.py").read_text(encoding="utf-8")
    known = re.findall(r"^class (nnUNetTrainer\w*)", text, re.MULTILINE)
    if name not in known:
        raise RunError(f"--trainer {name}: not a trainer of the plugin; expected one of {', '.join(known)}")


def trainer_facts(name: str) -> dict[str, Any]:
    """What the plugin's trainer `name` is by default: epochs, iterations, batch, rate, width, … as its class states them.

    Read off the file, which is loaded nowhere but in nnU-Net.

    Raises RunError when the plugin has no trainer of that name.
    """
    check_trainer(name)
    tree = ast.parse((plugin_folder() / "echosynth_trainers.py").read_text(encoding="utf-8"))
    classes = {c.name: c for c in tree.body if isinstance(c, ast.ClassDef)}
    facts: dict[str, Any] = {}
    current: str | None = name
    while current in classes:
        own = classes[current]
        facts = _class_values(own) | facts
        current = own.bases[0].id if own.bases and isinstance(own.bases[0], ast.Name) else None
    return facts


def _class_values(definition: ast.ClassDef) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in definition.body:
        if isinstance(line, ast.Assign):
            value, target = ast.literal_eval(line.value), line.targets[0]
            names = [ast.unparse(t) for t in target.elts] if isinstance(target, ast.Tuple) else [ast.unparse(target)]
            found |= dict(zip(names, value if isinstance(target, ast.Tuple) else (value,), strict=True))
    return found


def is_planned(dataset_id: int) -> bool:
    """Whether the dataset, as it is now, was planned and its training cases preprocessed."""
    dataset = nnunet_raw.find(dataset_id)
    folder = nnunet_folder("nnUNet_preprocessed") / dataset.name
    done = folder / f"{PLANS}_{CONFIGURATION}"
    same = all(
        not (dataset.path / f).is_file()
        or ((folder / f).is_file() and read_json(folder / f) == read_json(dataset.path / f))
        for f in ("dataset.json", "splits_final.json")
    )
    return (
        same
        and (folder / f"{PLANS}.json").is_file()
        and len(list(done.glob("*.pkl"))) >= nnunet_raw.training_count(dataset)
    )


def plan_and_preprocess(dataset_id: int, log: Path) -> None:
    """Fingerprint, 2d plans, preprocessing, integrity check of a raw dataset."""
    with _nnunet(log):
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        workers = available_cores()
        api.extract_fingerprints([dataset_id], num_processes=workers, check_dataset_integrity=True, verbose=False)
        api.plan_experiments([dataset_id])
        api.preprocess([dataset_id], plans_identifier=PLANS, configurations=[CONFIGURATION], num_processes=[workers])


def trained_folder(dataset_id: int, trainer: str) -> Path:
    """nnU-Net's result folder of fold 0, made or not."""
    name = nnunet_raw.find(dataset_id).name
    return nnunet_folder("nnUNet_results") / name / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{FOLD}"


def train(dataset_id: int, trainer: str, log: Path, device: str = "cpu", extra: dict[str, str] | None = None) -> Path:
    """Train fold 0; continues an interrupted training, returns at once from a finished one.

    Args:
        extra: environment variables of the plugin, e.g. ECHOSYNTH_NNUNET_EPOCHS.

    Returns:
        the folder of the fold.
    """
    folder = trained_folder(dataset_id, trainer)
    if (folder / FINAL).is_file():
        return folder
    resume = (folder / LATEST).is_file()
    with _nnunet(log, extra) as watching, _meters(watching) as make:
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

        found = get_trainer_from_args(
            str(dataset_id), CONFIGURATION, FOLD, trainer, PLANS, continue_training=resume, device=torch.device(device)
        )
        with _of_this_network(folder, LATEST, trainer):
            maybe_load_checkpoint(found, resume, False, None)
        total = found.num_epochs * found.num_iterations_per_epoch
        meter = make(total, "segmenter", "iterations", found.current_epoch * found.num_iterations_per_epoch)
        found.train_step = _counted(found.train_step, meter)
        found.run_training()
        found.perform_actual_validation(False)
    return folder


def predict(
    dataset_id: int, trainer: str, images: Path | Sequence[Path], out: Path, log: Path, device: str = "cpu", overwrite: bool = False
) -> None:  # fmt: skip
    """Segment images with fold 0's final weights; `out` appears complete or not at all.

    Args:
        images: files CASE_0000.nii.gz, or a folder of them.

    Raises:
        DataError: no images.
        RunError: not trained to the end, or with a network that this trainer does not build any more.
        ExistsError: `out` exists and may not be replaced.
    """
    files = sorted(images.glob(f"*_0000{ENDING}")) if isinstance(images, Path) else list(images)
    if not files:
        raise DataError(f"{images}: no *_0000{ENDING} files; expected a folder such as imagesTs of a raw dataset")
    folder = trained_folder(dataset_id, trainer)
    if not (folder / FINAL).is_file():
        raise RunError(f"{folder / FINAL}: missing; run 'echosynth train-segmenter --dataset-id {dataset_id} --trainer {trainer}' first")  # fmt: skip
    check_writable(out.absolute().parent)
    with (
        new_folder(out.absolute(), "predict-segmenter", overwrite) as target,
        _nnunet(log) as watching,
        _meters(watching) as make,
    ):
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            perform_everything_on_device=device.startswith("cuda"), device=torch.device(device), allow_tqdm=False
        )
        with _of_this_network(folder, FINAL, trainer):
            predictor.initialize_from_trained_model_folder(str(folder.parent), use_folds=(FOLD,), checkpoint_name=FINAL)
        meter = make(len(files), "segment", "images", 0)
        predictor.predict_logits_from_preprocessed_data = _counted(
            predictor.predict_logits_from_preprocessed_data, meter
        )
        predictor.predict_from_files(
            [[str(f)] for f in files], [str(target / f.name.removesuffix(f"_0000{ENDING}")) for f in files], save_probabilities=False, overwrite=True,
            num_processes_preprocessing=1, num_processes_segmentation_export=1,
        )  # fmt: skip


@contextmanager
def _of_this_network(folder: Path, checkpoint: str, trainer: str) -> Iterator[None]:
    """Says what is wrong where torch lists hundreds of names: the trainer's network changed after the training."""
    try:
        yield
    except RuntimeError as e:
        if "state_dict" not in str(e):
            raise
        raise RunError(
            f"{folder / checkpoint}: its weights are not those of the network that {trainer} builds now; "
            f"go on with the version of EchoSynth that trained it, or move {folder} away (of a sweep: the stage's whole folder) and train again"
        ) from None


def _counted(work: Callable[..., Any], meter: Meter) -> Callable[..., Any]:
    def counting(*arguments: Any, **keywords: Any) -> Any:
        result = work(*arguments, **keywords)
        meter.update()
        return result

    return counting


@contextmanager
def _meters(watching: TextIO) -> Iterator[Callable[[int, str, str, int], Meter]]:
    """Makes meters that are shown where people watch while everything else goes into a log."""
    made: list[Meter] = []

    def make(total: int, label: str, unit: str, done: int) -> Meter:
        made.append(Meter(total, label, unit, done, stream=watching))
        return made[-1]

    try:
        yield make
    finally:
        for meter in made:
            meter.close()
