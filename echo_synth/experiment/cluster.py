"""Cells as jobs of submitit: what a job may use, and the jobs on the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from echo_synth.errors import RunError
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.stages import Cell


@dataclass(frozen=True)
class JobLimits:
    """What a job may use, and what it says of itself to Slurm.

    Attributes:
        hours: until it is stopped.
        gpus: of its own.
        partition, account, qos, constraint: of Slurm; None: the site's default.
        cpus: cores; None: the site's default, often one.
        mem: memory in GiB; None: the site's default.
        at_once: most jobs that run at the same time; None: as many as there are.
        restarts: how often a cell that reaches `hours` is queued again.
    """

    hours: float = 24.0
    gpus: int = 0
    partition: str | None = None
    cpus: int | None = None
    mem: float | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    at_once: int | None = None
    restarts: int = 3

    @property
    def minutes(self) -> int:
        return round(self.hours * 60)


class Job(Protocol):
    """A submitted job."""

    job_id: str

    def exception(self) -> BaseException | None:
        """Waits for the end; what the job raised, or None."""


def need_submitit() -> None:
    """Raise RunError that says how to install submitit where it is missing."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise RunError(
            "--cluster needs the package submitit; install it with: pip install 'echosynth[cluster]'"
        ) from None


def submit_here(runner: Runner, cells: Sequence[Cell], limits: JobLimits) -> list[Job]:
    """A job for each share of this machine's GPUs, cells in turn.

    Raises RunError when submitit is missing, or this machine has fewer GPUs than a cell asks for.
    """
    need_submitit()
    import submitit

    gpus = limits.gpus
    workers = gpu_count() // gpus if gpus else 1
    if not workers:
        raise RunError(f"--gpus {gpus}: this machine has {gpu_count()}; ask for as many or fewer")
    jobs: list[Job] = []
    for k in range(min(workers, len(cells))):
        executor = submitit.LocalExecutor(folder=runner.workspace.out / "jobs")
        executor.update_parameters(timeout_min=limits.minutes, gpus_per_node=gpus)
        executor.update_parameters(visible_gpus=list(range(k * gpus, (k + 1) * gpus)))
        jobs.append(executor.submit(runner.run_cells, cells[k::workers]))
    return jobs


def wait(jobs: Sequence[Job], after_each: Callable[[], object]) -> None:
    """Until all have ended; `after_each` is called when one has."""
    for job in jobs:
        job.exception()
        after_each()


def gpu_count() -> int:
    """CUDA devices of this machine."""
    import torch

    return torch.cuda.device_count()
