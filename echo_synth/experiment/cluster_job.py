"""What a job of a cluster runs: cells in turn, saved and queued again when the job has to give way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from echo_synth.experiment.runner import Runner
from echo_synth.experiment.shell import let_running_save
from echo_synth.experiment.stages import Cell

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_SECONDS_BEFORE_KILL = 25.0  # Slurm sends SIGKILL 30 s after SIGTERM where the site has set nothing else


class CellJob:
    """Runs cells as a job of submitit. A job that Slurm starts again goes on: stages that are done stay done."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __call__(self, cells: Sequence[Cell]) -> list[str]:
        """Names of the cells that failed."""
        signal.signal(signal.SIGTERM, _save_and_end)
        return self.runner.run_cells(cells)

    def checkpoint(self, cells: Sequence[Cell]) -> DelayedSubmission:
        """What is to be run when the job is queued again; called shortly before its time is over, or when it is preempted."""
        from submitit.helpers import DelayedSubmission

        let_running_save()
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # Slurm sends it as soon as the job is queued again, while this one ends
        return DelayedSubmission(self, cells)


def _save_and_end(number: int, frame: FrameType | None) -> None:
    """On SIGTERM, of scancel or preemption: the job has seconds left."""
    let_running_save(_SECONDS_BEFORE_KILL)
    sys.exit(128 + number)
