"""nnU-Net in this process: its own functions with the right environment, one progress bar, its talk in a log.

What runs is what nnU-Net's commands run, so plans, weights and predictions are the same.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from echo_synth.data import nnunet_raw
from echo_synth.data.nnunet_raw import ENDING, RawDataset
from echo_synth.errors import DataError, RunError
from echo_synth.estimate import measured_seconds
from echo_synth.files import LISTS_CASES, read_json, write_json
from echo_synth.home import NNUNET_FOLDERS, nnunet_folder, plugin_folder
from echo_synth.parallel import available_cores
from echo_synth.progress import Meter, output_to
from echo_synth.records import read_json_as
from nnunet_plugin.budgets import Budget, budgets

PLANS, CONFIGURATION, FOLD = "nnUNetPlans", "2d", 0
_GREY_LEVELS = 10**6  # of the foreground, whose mean and percentiles plans tell; our images are rescaled without them
_PLUGIN = "ECHOSYNTH_NNUNET_"  # how the environment variables begin that change a trainer of the plugin
_FEW_CASES = 200  # are read by one process before others have started
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


def changing_trainers() -> set[str]:
    """Names of the environment variables that are set and change what a trainer of the plugin does, not only how fast."""
    return {name for name in os.environ if name.startswith(_PLUGIN) and name != f"{_PLUGIN}THREADS"}


@contextmanager
def _nnunet(log: Path, extra: Mapping[str, str] | None = None) -> Iterator[TextIO]:
    """nnU-Net's environment around a piece of work, its output appended to `log`; yields where people watch.

    Of the plugin's variables only those in `extra` count, and THREADS, which changes nothing but speed: others would change
    a training, and no settings.json would tell.

    Raises RunError with the log's name for whatever nnU-Net raises, and when nnU-Net was loaded
    with other folders in this process: it reads them once.
    """
    wanted = environment() | dict(extra or {})
    stray = changing_trainers() - set(wanted)
    before = {k: os.environ.get(k) for k in (*wanted, *stray)}
    for name in stray:
        del os.environ[name]
    os.environ.update(wanted)
    try:
        with output_to(log) as watching:
            from nnunetv2 import paths

            for name in NNUNET_FOLDERS:
                if Path(getattr(paths, name)) != Path(wanted[name]):
                    before_now = getattr(paths, name)
                    raise RunError(
                        f"{name} was {before_now} when this process began, now {wanted[name]}; start a new one"
                    )
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
    trainer_budget(name)


def trainer_budget(name: str) -> Budget:
    """Length and size of a training with the plugin's trainer `name`. Raises RunError when there is none of that name."""
    known = budgets()
    if name not in known:
        raise RunError(f"--trainer {name}: not a trainer of the plugin; expected one of {', '.join(known)}")
    return known[name]


class _Configuration(BaseModel):
    """Of a configuration, what is used here; the rest is nnU-Net's."""

    model_config = ConfigDict(extra="allow")
    data_identifier: str
    preprocessor_name: str
    patch_size: list[PositiveInt]
    median_image_size_in_voxels: tuple[PositiveFloat, PositiveFloat]
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    resampling_fn_data: str
    spacing: list[PositiveFloat]


class _Configurations(BaseModel):
    model_config = ConfigDict(extra="allow")
    of_images: _Configuration = Field(alias="2d")


class _Plans(BaseModel):
    model_config = ConfigDict(extra="allow")
    dataset_name: str
    plans_name: str
    configurations: _Configurations


def read_plans(file: Path) -> dict[str, Any]:
    """nnU-Net's plans with a configuration for images. Raises DataError when they are missing, or are none."""
    read_json_as(_Plans, file, "echosynth train-segmenter")
    plans: dict[str, Any] = read_json(file)
    return plans


def plans_file(dataset: RawDataset) -> Path:
    """nnU-Net's plans of a dataset, made or not."""
    return nnunet_folder("nnUNet_preprocessed") / dataset.name / f"{PLANS}.json"


def is_planned(dataset_id: int) -> bool:
    """Whether the dataset, with the images and labels that it holds now, was planned and preprocessed."""
    dataset = nnunet_raw.find(dataset_id)
    folder = plans_file(dataset).parent
    for name in ("dataset.json", "splits_final.json"):
        raw, copied = dataset.path / name, folder / name
        if raw.is_file() and not (copied.is_file() and _used(copied) == _used(raw)):
            return False
    try:
        plans = read_plans(plans_file(dataset))
    except DataError:
        return False  # none, or damaged: made again
    from nnunet_plugin import cases, whole_images

    files = cases.raw_files(dataset.path, nnunet_raw.describe(dataset))
    preprocessed = folder / whole_images.identifier(plans, CONFIGURATION)
    return cases.is_preprocessed(files, plans, CONFIGURATION, preprocessed)


def _used(file: Path) -> Any:
    """What a training uses of dataset.json or splits_final.json."""
    from nnunet_plugin import cases

    content = read_json(file, LISTS_CASES)
    return cases.without_facts(content) if isinstance(content, dict) else content


def plan_and_preprocess(dataset_id: int, log: Path) -> None:
    """Integrity check, fingerprint, 2d plans for whole images and preprocessed cases of a raw dataset."""
    dataset = nnunet_raw.find(dataset_id)
    folder = plans_file(dataset).parent
    with _nnunet(log):
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        from nnunet_plugin import cases, whole_images

        (folder / "splits_final.json").unlink(missing_ok=True)  # nnU-Net stops at a copy of earlier ones
        workers, description = available_cores(), nnunet_raw.describe(dataset)
        files = cases.raw_files(dataset.path, description)
        with _threads_for(len(files)):
            api.extract_fingerprint_dataset(
                dataset_id, _extractor(), workers, check_dataset_integrity=True, verbose=False
            )
        api.plan_experiments([dataset_id])
        plans = read_plans(plans_file(dataset))
        size = cases.common_size([image for image, _ in files.values()])
        whole_images.plan_whole_images(plans, CONFIGURATION, size)
        write_json(plans_file(dataset), plans)
        target = folder / whole_images.identifier(plans, CONFIGURATION)
        cases.preprocess(files, plans, CONFIGURATION, description, target, workers)


def _extractor() -> type[Any]:
    """nnU-Net's fingerprints, of fewer grey levels. It draws 10^8, with replacement, however few pixels there are: 6 s and a GiB."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    class Extractor(DatasetFingerprintExtractor):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.num_foreground_voxels_for_intensitystats = _GREY_LEVELS

    return Extractor


@contextmanager
def _threads_for(count: int) -> Iterator[None]:
    """nnU-Net's planning of a few cases reads them in threads: its processes would import nnU-Net for ten seconds each, twice."""
    from nnunetv2.experiment_planning import verify_dataset_integrity
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.utilities import utils

    if count > _FEW_CASES:
        yield
        return
    modules: tuple[Any, ...] = (verify_dataset_integrity, fingerprint_extractor)
    processes = utils.Pool
    threads = SimpleNamespace(get_context=lambda method: SimpleNamespace(Pool=ThreadPool))
    try:
        utils.Pool = ThreadPool  # a dozen, to sort file names
        for module in modules:
            module.multiprocessing = threads
        yield
    finally:
        utils.Pool = processes
        for module in modules:
            module.multiprocessing = multiprocessing


def seconds_of_step(dataset_id: int, trainer: str, device: str) -> float:
    """Seconds for one image of a training: forward and backward pass of the network that `trainer` builds from the plans, and
    its share in the optimiser's step."""
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_plugin import echosynth_trainers, networks, optimizers

    dataset = nnunet_raw.find(dataset_id)
    plans = PlansManager(read_plans(plans_file(dataset)))
    configuration = plans.get_configuration(CONFIGURATION)
    heads = plans.get_label_manager(nnunet_raw.describe(dataset)).num_segmentation_heads
    builder = getattr(echosynth_trainers, trainer)
    network = builder.build_network_architecture(plans, configuration, 1, heads, True).to(device)
    images = torch.zeros(1, 1, *configuration.patch_size, device=device)

    def step() -> None:
        with networks.autocast(torch.device(device), device.startswith("cuda") or networks.cpu_has_bf16()):
            outputs = network(images)
        sum(output.float().mean() for output in outputs).backward()

    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    budget = trainer_budget(trainer)
    optimizer = optimizers.build_optimizer(network.parameters(), budget, torch.device(device).type)
    return measured_seconds(step, wait) + measured_seconds(optimizer.step, wait) / budget.batch


def content_of(dataset: RawDataset) -> str:
    """Hash of all that a training on a raw dataset depends on: images, labels, dataset.json, splits."""
    from nnunet_plugin import cases

    description, splits = nnunet_raw.describe(dataset), dataset.path / "splits_final.json"
    use = cases.use_of(description, read_json(splits, LISTS_CASES)) if splits.is_file() else ""
    return cases.content_hash(cases.raw_files(dataset.path, description)) + use


def trained_content(folder: Path) -> str | None:
    """`content_of` the dataset when the training in `folder` began; None where it is not noted."""
    from nnunet_plugin import cases

    source = cases.source_of_training(folder)
    return source["content"] + source.get("use", "") if "content" in source else None


def image_size(folder: Path) -> tuple[int, int] | None:
    """(rows, columns) of every image that a training saw; None where they differed, or it is not noted."""
    plans = folder.parent / "plans.json"
    if not plans.is_file():
        return None
    configuration = read_plans(plans)["configurations"][CONFIGURATION]
    if not configuration.get("whole_images"):
        return None
    rows, columns = configuration["median_image_size_in_voxels"]
    return int(rows), int(columns)


def trained_folder(dataset_id: int, trainer: str) -> Path:
    """nnU-Net's result folder of fold 0, made or not."""
    name = nnunet_raw.find(dataset_id).name
    return nnunet_folder("nnUNet_results") / name / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{FOLD}"


def train(
    dataset_id: int,
    trainer: str,
    log: Path,
    device: str = "cpu",
    extra: Mapping[str, str] | None = None,
    begin: Callable[[Any], None] | None = None,
) -> Path:
    """Train fold 0; continues an interrupted training, returns at once from a finished one.

    Args:
        extra: environment variables of the plugin, e.g. ECHOSYNTH_NNUNET_EPOCHS.
        begin: called with the network of a new training before its first step, to give it other weights.

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

        work = get_trainer_from_args(
            str(dataset_id), CONFIGURATION, FOLD, trainer, PLANS, continue_training=resume, device=torch.device(device)
        )
        if torch.device(device).index is not None:
            work.device = torch.device(device)  # nnU-Net makes cuda:0 of every GPU
        with _of_this_network(folder, LATEST, trainer):
            maybe_load_checkpoint(work, resume, False, None)
        if begin is not None and not resume:
            work.initialize()
            begin(work.network)
        total = work.num_epochs * work.num_iterations_per_epoch
        meter = make(total, "segmenter", "iterations", work.current_epoch * work.num_iterations_per_epoch)
        work.train_step = _counted(work.train_step, meter)
        work.run_training()
        work.perform_actual_validation(False)
    return folder


def predict(dataset_id: int, trainer: str, files: Sequence[Path], target: Path, log: Path, device: str = "cpu") -> None:
    """Segment images CASE_0000.nii.gz with fold 0's final weights, into TARGET/CASE.nii.gz.

    Raises RunError when the weights are of a network that this trainer does not build any more.
    """
    folder = trained_folder(dataset_id, trainer)
    outputs = [str(target / f.name.removesuffix(f"_0000{ENDING}")) for f in files]
    with _nnunet(log) as watching, _meters(watching) as make:
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
        # In this process: others would import nnU-Net for ten seconds each, to read and write images of 60 kB.
        predictor.predict_from_files_sequential([[str(f)] for f in files], outputs)


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
