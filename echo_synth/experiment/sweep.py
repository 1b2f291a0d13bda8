"""A sweep from its spec to its results: plan the cells, run those asked for, write the tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_synth.errors import RunError
from echo_synth.experiment.cells import build_cells, choose_cells
from echo_synth.experiment.cluster import JobLimits, submit_here, wait
from echo_synth.experiment.commands import StageCommands
from echo_synth.experiment.inputs import SweepInputs, find_inputs
from echo_synth.experiment.measured import Throughput
from echo_synth.experiment.results import Results
from echo_synth.experiment.runner import Runner, Say
from echo_synth.experiment.slurm import SlurmSweep
from echo_synth.experiment.spec import SweepSpec
from echo_synth.experiment.stages import Cell
from echo_synth.experiment.workspace import Workspace


@dataclass(frozen=True)
class Sweep:
    """A planned sweep.

    Attributes:
        spec: the experiment.
        inputs: what it takes from elsewhere.
        cells: all of its cells.
        chosen: those to run.
        runner: carries out their stages.
        price, throughput: see `Results`.
    """

    spec: SweepSpec
    inputs: SweepInputs
    cells: Sequence[Cell]
    chosen: Sequence[Cell]
    runner: Runner
    price: float | None = None
    throughput: Throughput | None = None

    @property
    def workspace(self) -> Workspace:
        return self.runner.workspace

    @property
    def results(self) -> Results:
        return Results(self.spec, self.cells, self.workspace, self.price, self.throughput)

    def run_here(self, say: Say) -> None:
        """One cell after the other; one that fails does not stop the rest. Tables and figures are written after each.

        Raises RunError that names the cells that failed.
        """
        failed = self.runner.run_cells(self.chosen, say, self.results.publish)
        self._raise_failed(failed, "mend what their logs name and run again")

    def run_on(self, cluster: str, limits: JobLimits, say: Say) -> None:
        """As jobs of submitit, under Slurm or on this machine ("slurm", "local"); waits for all.

        Raises RunError that names the cells that failed, and why as far as their jobs did not tell themselves.
        """
        ended: list[str] = []
        if cluster == "slurm":
            problems = SlurmSweep(self.runner, limits, say).run(self.chosen, self.results.publish)
        else:
            jobs = submit_here(self.runner, self.chosen, limits)
            say(f"{len(jobs)} jobs: {', '.join(j.job_id for j in jobs)}")
            problems, ended = {}, wait(jobs, self.results.publish)
        unfinished = [c.name for c in self.chosen if self.workspace.state(c) != "done"]
        told = [*ended, *(f"{cell}: {problem}" for cell, problem in problems.items() if cell in unfinished)]
        self._raise_failed(unfinished, "; ".join([*told, f"their logs are in {self.workspace.out / 'jobs'}"]))

    def _raise_failed(self, failed: Sequence[str], remedy: str) -> None:
        if failed:
            raise RunError(f"{len(failed)} of {len(self.chosen)} cells failed ({', '.join(failed)}); {remedy}")


def plan_sweep(spec: SweepSpec, out: Path, only: Sequence[str] | None, device: str, say: Say) -> Sweep:
    """Find the inputs and build the cells; runs nothing.

    Args:
        out: the sweep's folder.
        only: names of the cells to run, as `choose_cells` takes them; None: all.
        device: for every command.

    Raises SpecError for a name in `only` that is none; otherwise as `find_inputs` and `build_cells`.
    """
    inputs = find_inputs(spec, say)
    cells = build_cells(spec, inputs.fingerprints, inputs.solvers, inputs.levels)
    workspace = Workspace(out, inputs.real)
    runner = Runner(workspace, StageCommands(workspace, inputs, device))
    return Sweep(spec, inputs, cells, choose_cells(cells, only), runner)
