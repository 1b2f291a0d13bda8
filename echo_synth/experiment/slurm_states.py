"""What Slurm says of jobs: by squeue, which needs no accounting, and by sacct where a job has left the queue."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SECONDS_TO_ANSWER = 60.0
# States that a job does not leave, in plain words and with what to do.
ENDED = {
    "BOOT_FAIL": "its node could not be started; run the same command again",
    "CANCELLED": "it was cancelled; run the same command again to go on",
    "COMPLETED": "it ended without leaving a result",
    "DEADLINE": "its deadline passed before it could run",
    "FAILED": "it failed",
    "NODE_FAIL": "its node failed; run the same command again",
    "OUT_OF_MEMORY": "it ran out of memory; give more with --mem",
    "PREEMPTED": "it had to give way to another job, and was not queued again; run the same command again",
    "REVOKED": "another cluster took it over",
    "TIMEOUT": "it reached its time limit; give more with --hours, or --restarts",
}


@dataclass(frozen=True)
class JobState:
    """Of one job: a state such as RUNNING, and why it waits where it does."""

    name: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.name in ENDED


def job_states(jobs: Mapping[str, str]) -> dict[str, JobState] | None:
    """States by job id, e.g. 12_3 of an array; a job that Slurm no longer knows is left out.

    Args:
        jobs: names by id. One of another name is not meant: a Slurm that is set up anew, or another cluster, counts from 1 again.

    Returns None when the controller does not answer: nothing is known then.
    """
    numbers = sorted({job.partition("_")[0] for job in jobs})
    if not numbers:
        return {}
    # -r: a line for each job of an array; -t all: also those that ended a few minutes ago.
    answer = _ask(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%j|%r", "-j", ",".join(numbers)])
    if answer is None:
        return None
    states = _read(answer, jobs)
    gone = set(jobs) - set(states)
    if gone:
        states |= _accounted({job: jobs[job] for job in gone})
    return {job: states[job] for job in jobs if job in states}


def _accounted(jobs: Mapping[str, str]) -> dict[str, JobState]:
    """How jobs have ended that left the queue, as accounting has kept it; nothing where there is none.

    A job that still runs or waits there, but is not in the queue, was lost with its controller: accounting shows it so for ever.
    """
    numbers = sorted({job.partition("_")[0] for job in jobs})
    kept = _read(_ask(["sacct", "-n", "-X", "-P", "-o", "JobID,State,JobName", "-j", ",".join(numbers)]) or "", jobs)
    return {job: state for job, state in kept.items() if state.ended}


def _read(answer: str, jobs: Mapping[str, str]) -> dict[str, JobState]:
    """Lines of 'id|STATE|name' or 'id|STATE|name|reason', of jobs of these names; 'CANCELLED by 1000' and 'CANCELLED+' are CANCELLED."""
    states = {}
    for line in answer.splitlines():
        job, state, name, reason = (*line.strip().split("|", 3), "", "", "")[:4]
        words = state.split()
        if words and jobs.get(job) == name:
            states[job] = JobState(words[0].rstrip("+").upper(), "" if reason == "None" else reason)
    return states


def _ask(command: Sequence[str]) -> str | None:
    """Its output; empty where it says that the jobs are unknown, None where it fails otherwise."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode == 0:
        return result.stdout
    return "" if "invalid job id" in result.stderr.lower() else None
