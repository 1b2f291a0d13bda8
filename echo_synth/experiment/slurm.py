"""Cells as jobs of Slurm: an array of them, found again by a later command that waits for the same cells."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from echo_synth.claims import claim, lock_beside
from echo_synth.errors import RunError
from echo_synth.experiment.cluster import JobLimits, need_submitit
from echo_synth.experiment.cluster_job import CellJob
from echo_synth.experiment.runner import Runner
from echo_synth.experiment.slurm_states import job_states
from echo_synth.experiment.slurm_watch import Say, SubmittedJob, Watch
from echo_synth.experiment.stages import Cell
from echo_synth.files import write_json
from echo_synth.interrupt import continue_with, resume_hint
from echo_synth.records import read_json_as

if TYPE_CHECKING:
    from submitit import SlurmExecutor

_PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")
# What sbatch says, and what to change.
_REMEDIES = {
    "invalid account": "name an account of yours with --account, or one that may use the --partition",
    "invalid partition": "choose another --partition; sinfo lists them",
    "invalid qos": "choose another --qos",
    "invalid feature": "choose another --constraint; sinfo -o %f lists them",
    "invalid generic resource": "ask for fewer --gpus, or name the --partition that has some",
    "time limit": "ask for fewer --hours",
    "memory": "ask for less --mem",
    "node configuration is not available": "ask for less: --cpus, --mem, --gpus, --constraint",
    "cpu count": "ask for fewer --cpus",
    "limit": "wait until jobs of yours have ended, or choose cells with --only",
    "unable to contact": "the controller does not answer; try again when it does",
}


class _Known(BaseModel):
    """A submitted job in jobs.json: id, name, and the stage that it ends with. Earlier versions wrote no name."""

    model_config = ConfigDict(extra="forbid")
    job: str = Field(pattern=r"^\d{1,18}(_\d{1,9})?$")
    ends_with: str
    name: str = ""


@dataclass(frozen=True)
class SlurmSweep:
    """Hands cells of a sweep to Slurm.

    Args:
        runner: carries out their stages, in the jobs.
        limits: of a job.
        say: is told what happens.
    """

    runner: Runner
    limits: JobLimits
    say: Say

    @property
    def folder(self) -> Path:
        """Of the jobs: their outputs, and what submitit keeps."""
        return self.runner.workspace.out / "jobs"

    def run(self, cells: Sequence[Cell], after_each: Callable[[], object]) -> dict[str, str]:
        """Submit what is neither done nor in the queue already, and wait for all.

        Returns, by cell, what kept a job from leaving a result.

        Raises RunError where submitit or Slurm is missing, or Slurm does not take the jobs.
        """
        need_submitit()
        missing = [program for program in _PROGRAMS if which(program) is None]
        if missing:
            raise RunError(
                f"--cluster slurm: no {' and '.join(missing)} on this machine; "
                "start the sweep where SLURM is, or use --cluster local"
            )
        pending = [c for c in cells if self.runner.workspace.state(c) != "done"]
        known = self._hand_in(pending)
        numbers = sorted({k.job.partition("_")[0] for k in known.values()})
        saved = f"the jobs go on by themselves (to end them: scancel {' '.join(numbers)})"
        with resume_hint(continue_with(), saved):
            names = {k.job: k.name for k in known.values()}
            return Watch(self._jobs(known), names, self.say, after_each).run()

    def _hand_in(self, pending: Sequence[Cell]) -> dict[str, _Known]:
        """The jobs of cells: those in the queue already, and new ones. Commands that do so at once take turns, or both would submit all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with claim(lock_beside(self._record), wait=math.inf):
            known = self._in_queue(pending)
            if known:
                self.say(f"in the queue already: {', '.join(f'{c} (job {k.job})' for c, k in known.items())}")
            new = [c for c in pending if c.name not in known]
            if new:
                known |= self._submit(new)
                self.say(f"submitted: {', '.join(f'{c.name} (job {known[c.name].job})' for c in new)}")
        return known

    def _jobs(self, known: Mapping[str, _Known]) -> dict[str, SubmittedJob]:
        import submitit

        return {cell: submitit.SlurmJob(self.folder, k.job) for cell, k in known.items()}

    @property
    def _record(self) -> Path:
        return self.folder / "jobs.json"

    def _known(self) -> dict[str, _Known]:
        return read_json_as(dict[str, _Known], self._record, "echosynth sweep") if self._record.is_file() else {}

    def _in_queue(self, cells: Sequence[Cell]) -> dict[str, _Known]:
        """Jobs of an earlier command that wait or run, and do what these cells still ask for."""
        by_name = {c.name: c for c in cells}
        known = {c: k for c, k in self._known().items() if c in by_name and k.ends_with == _last(by_name[c])}
        states = job_states({k.job: k.name for k in known.values()})
        if states is None:
            raise RunError("--cluster slurm: squeue gets no answer from Slurm's controller; try again when it answers")
        return {cell: k for cell, k in known.items() if k.job in states and not states[k.job].ended}

    def _submit(self, cells: Sequence[Cell]) -> dict[str, _Known]:
        import submitit
        from submitit.core.utils import FailedJobError

        executor: SlurmExecutor = submitit.SlurmExecutor(self.folder, max_num_timeout=self.limits.restarts)
        name = job_name(self.runner.workspace.out.name)
        executor.update_parameters(**parameters(self.limits, name))
        before = _results(self.folder)
        try:
            jobs = executor.map_array(CellJob(self.runner), [[c] for c in cells])
        except FailedJobError as e:
            raise RunError(f"--cluster slurm: {refusal(str(e))}") from None
        _drop_namesakes(jobs, before)
        new = {c.name: _Known(job=j.job_id, ends_with=_last(c), name=name) for c, j in zip(cells, jobs, strict=True)}
        write_json(self._record, {name: known.model_dump() for name, known in (self._known() | new).items()})
        return new


def job_name(sweep: str) -> str:
    """Of the jobs of one submission. The number tells them from jobs of the same ids that another Slurm, or a former one, has."""
    return f"echosynth-{re.sub(r'[^A-Za-z0-9_.-]', '-', sweep)}-{secrets.token_hex(4)}"


def _results(folder: Path) -> dict[Path, tuple[int, int]]:
    """Results that are there, with what changes where another file takes the place: inode and time."""
    stats = {file: file.stat() for file in folder.glob("*_result.pkl")}
    return {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in stats.items()}


def _drop_namesakes(jobs: Sequence[SubmittedJob], before: Mapping[Path, tuple[int, int]]) -> None:
    """Remove results that were there before these jobs were submitted: of jobs of another cluster, or of this one before it was
    set up anew, which count from 1."""
    now = _results(jobs[0].paths.result_pickle.parent)
    for result in {job.paths.result_pickle for job in jobs} & set(before):
        if now.get(result) == before[result]:
            result.unlink()


def parameters(limits: JobLimits, name: str) -> Mapping[str, Any]:
    """Of submitit's SlurmExecutor; what nobody asked for is left to the site."""
    asked: dict[str, Any] = {
        "gpus_per_node": limits.gpus or None,
        "partition": limits.partition,
        "cpus_per_task": limits.cpus,
        "mem": f"{round(limits.mem * 1024)}M" if limits.mem else None,
        "account": limits.account,
        "qos": limits.qos,
        "constraint": limits.constraint,
        "array_parallelism": limits.at_once,
        # srun does not take the number of cores over from sbatch since Slurm 22.05.
        "srun_args": ["-c", str(limits.cpus)] if limits.cpus else None,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    # requeue: also where the site's default is not to start a job again whose node failed.
    return given | {"job_name": name, "time": limits.minutes, "additional_parameters": {"requeue": True}}


def refusal(message: str) -> str:
    """Why sbatch took no jobs, in one line, and what to change."""
    said = " ".join(re.sub(r"sbatch: (error: )?", "", message).split())
    lower = said.lower()
    remedy = next((words for part, words in _REMEDIES.items() if part in lower), "")
    return f"sbatch refused the jobs ({said:.300}){f'; {remedy}' if remedy else ''}"


def _last(cell: Cell) -> str:
    """The hash of a cell's last stage, which everything before it decides."""
    return cell.stages[-1].key
