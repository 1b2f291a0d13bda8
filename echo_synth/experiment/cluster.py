"""Cells as jobs of submitit: on SLURM, or on the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Protocol

from echo_synth.errors import RunError
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.stages import Cell

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True)
class JobLimits:
    """What a job may use: hours, GPUs, and under SLURM its partition."""

    hours: float = 24.0
    gpus: int = 0
    partition: str | None = None


class Job(Protocol):
    """A submitted job."""

    job_id: str

    def exception(self) -> BaseException | None:
        """Waits for the end; what the job raised, or None."""


def submit(runner: Runner, cells: Sequence[Cell], cluster: str, limits: JobLimits) -> list[Job]:
    """Hand `cells` over: under SLURM a job a cell; on this machine a job for each share of its GPUs, cells in turn.

    Args:
        cluster: "local" or "slurm".

    Raises RunError when submitit is missing, this machine has fewer GPUs than a cell asks for, or
    SLURM is not there or does not take the jobs.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError:
        raise RunError(
            "--cluster needs the package submitit; install it with: pip install 'echosynth[cluster]'"
        ) from None
    folder = runner.workspace.out / "jobs"
    if cluster == "local":
        return _on_this_machine(runner, cells, folder, limits)
    if which("srun") is None or which("sbatch") is None:
        raise RunError(
            "--cluster slurm: no srun and sbatch on this machine; start the sweep where SLURM is, or use --cluster local"
        )
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    _limit(executor, limits)
    if limits.partition:
        executor.update_parameters(slurm_partition=limits.partition)
    try:
        return list(executor.map_array(runner.run_cells, [[c] for c in cells]))
    except FailedJobError as e:
        raise RunError(f"--cluster slurm: sbatch refused the jobs ({' '.join(str(e).split()):.300})") from None


def _on_this_machine(runner: Runner, cells: Sequence[Cell], folder: Path, limits: JobLimits) -> list[Job]:
    import submitit

    gpus = limits.gpus
    workers = gpu_count() // gpus if gpus else 1
    if not workers:
        raise RunError(f"--gpus {gpus}: this machine has {gpu_count()}; ask for as many or fewer")
    jobs: list[Job] = []
    for k in range(min(workers, len(cells))):
        executor = submitit.LocalExecutor(folder=folder)
        _limit(executor, limits)
        executor.update_parameters(visible_gpus=list(range(k * gpus, (k + 1) * gpus)))
        jobs.append(executor.submit(runner.run_cells, cells[k::workers]))
    return jobs


def _limit(executor: submitit.Executor, limits: JobLimits) -> None:
    executor.update_parameters(timeout_min=round(limits.hours * 60), gpus_per_node=limits.gpus)


def wait(jobs: Sequence[Job], after_each: Callable[[], object]) -> None:
    """Until all have ended; `after_each` is called when one has."""
    for job in jobs:
        job.exception()
        after_each()


def gpu_count() -> int:
    """CUDA devices of this machine."""
    import torch

    return torch.cuda.device_count()
