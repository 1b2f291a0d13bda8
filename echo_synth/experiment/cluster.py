"""Cells as jobs of submitit: what a job may use, and the jobs on the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from echo_synth.errors import RunError
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.slurm_watch import SubmittedJob, last_words
from echo_synth.experiment.stages import Cell


@dataclass(frozen=True)
class JobLimits:
    """What a job may use, and what it says of itself to Slurm.

    Attributes:
        hours: until it is stopped; of a job for several cells, so many for each.
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


class Job(SubmittedJob, Protocol):
    """A submitted job."""

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
        share = cells[k::workers]
        executor = submitit.LocalExecutor(folder=runner.workspace.out / "jobs")
        executor.update_parameters(timeout_min=limits.minutes * len(share), gpus_per_node=gpus)
        executor.update_parameters(visible_gpus=list(range(k * gpus, (k + 1) * gpus)))
        jobs.append(executor.submit(runner.run_cells, share))
    return jobs


def wait(jobs: Sequence[Job], after_each: Callable[[], object]) -> list[str]:
    """Until all have ended; `after_each` is called when one has. Returns what kept jobs from their end, in plain words."""
    problems = []
    for job in jobs:
        error = job.exception()
        if error is not None:
            problems.append(f"job {job.job_id}: {_in_words(error)}; its output is in {job.paths.stdout}")
        after_each()
    return problems


def _in_words(error: BaseException) -> str:
    from submitit.core.utils import FailedJobError

    if "timed-out" in str(error):
        return "it took longer than --hours for each of its cells"
    return last_words(str(error)) if isinstance(error, FailedJobError) else "it was killed before it left a result"


def gpu_count() -> int:
    """CUDA devices of this machine."""
    import torch

    return torch.cuda.device_count()
