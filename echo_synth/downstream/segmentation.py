"""nnU-Net's own commands as functions: the right environment, one log, a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from echo_synth.errors import RunError
from echo_synth.home import NNUNET_FOLDERS, nnunet_folder, plugin_folder
from echo_synth.parallel import available_cores


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


def run_nnunet(command: str, arguments: list[str], log: Path, extra: dict[str, str] | None = None) -> None:
    """Run one of nnU-Net's console commands, its output into `log`.

    Raises RunError with the last line of the log when it fails.
    """
    program = Path(sys.executable).with_name(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as output:
        output.write(f"$ {command} {' '.join(arguments)}\n")
        output.flush()
        result = subprocess.run(
            [str(program), *arguments],
            env=os.environ | environment() | (extra or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if result.returncode:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise RunError(f"{command} failed ({lines[-1]:.200}); its output is in {log}")


def plan_and_preprocess(dataset_id: int, log: Path) -> None:
    """Fingerprint, 2d plans, preprocessing, integrity check of a raw dataset."""
    run_nnunet(
        "nnUNetv2_plan_and_preprocess",
        ["-d", str(dataset_id), "-c", "2d", "--verify_dataset_integrity", "-np", "2"],
        log,
    )


def train(dataset_id: int, trainer: str, log: Path, device: str = "cpu", extra: dict[str, str] | None = None) -> None:
    """Train fold 0; continues an interrupted training where there is a checkpoint."""
    results = nnunet_folder("nnUNet_results")
    checkpoints = list(
        results.glob(f"Dataset{dataset_id:03d}_*/{trainer}__nnUNetPlans__2d/fold_0/checkpoint_latest.pth")
    )
    arguments = [str(dataset_id), "2d", "0", "-tr", trainer, "-device", device, *(["--c"] if checkpoints else [])]
    run_nnunet("nnUNetv2_train", arguments, log, extra)


def predict(dataset_id: int, trainer: str, images: Path, out: Path, log: Path, device: str = "cpu") -> None:
    """Segment every image of a folder with fold 0's final weights."""
    arguments = ["-d", str(dataset_id), "-i", str(images), "-o", str(out), "-tr", trainer, "-c", "2d", "-f", "0",
                 "-device", device, "-npp", "1", "-nps", "1"]  # fmt: skip
    run_nnunet("nnUNetv2_predict", arguments, log)
