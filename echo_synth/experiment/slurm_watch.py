"""Waits for jobs of Slurm: until each has left its result, or it is certain that it will not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from echo_synth.experiment.slurm_states import ENDED, JobState, job_states

Say = Callable[[str], None]
ASK_SECONDS = 15.0  # between questions to the controller, which serves others too
RESULT_SECONDS = 60.0  # until the result of a job that has ended is visible on a network file system
LOST_SECONDS = 120.0  # a job that Slurm does not know for so long will not come back
_LOOK_SECONDS = 1.0
_HELD = ("held", "launch failed")  # reasons of jobs that wait until somebody releases them


class _Paths(Protocol):
    @property
    def result_pickle(self) -> Path: ...

    @property
    def stdout(self) -> Path: ...


class SubmittedJob(Protocol):
    """A job of submitit, as far as it is used here."""

    job_id: str

    @property
    def paths(self) -> _Paths: ...

    def exception(self) -> BaseException | None:
        """Of a job that has left its result: what it raised, or None."""


@dataclass
class Watch:
    """Waits for the jobs of cells.

    Args:
        jobs: by the name of the cell.
        names: of the jobs as Slurm knows them, by id.
        say: is told what changes.
        after_each: is called when a job has ended.
    """

    jobs: Mapping[str, SubmittedJob]
    names: Mapping[str, str]
    say: Say
    after_each: Callable[[], object]
    _shown: dict[str, JobState] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)  # when a job was first found ended or unknown
    _answers: bool = True

    def run(self) -> dict[str, str]:
        """Until all have ended. Returns, by cell, what kept a job from leaving a result, in plain words."""
        waiting, problems, ask_at = dict(self.jobs), dict[str, str](), time.monotonic()
        while waiting:
            for cell in [c for c, job in waiting.items() if _has_result(job)]:
                problem = _raised(waiting.pop(cell))
                if problem:
                    problems[cell] = problem
                self.after_each()
            if waiting and time.monotonic() >= ask_at:
                for cell, problem in self._without_result(waiting).items():
                    problems[cell] = f"job {waiting.pop(cell).job_id}: {problem}"
                    self.say(f"{cell}: {problems[cell]}")
                    self.after_each()
                ask_at = time.monotonic() + ASK_SECONDS
            if waiting:
                time.sleep(_LOOK_SECONDS)
        return problems

    def _without_result(self, waiting: Mapping[str, SubmittedJob]) -> dict[str, str]:
        """Cells whose jobs have ended or are lost, and left no result in the time that it takes to become visible."""
        states = job_states({job.job_id: self.names[job.job_id] for job in waiting.values()})
        self._say_whether_it_answers(states is not None)
        if states is None:
            return {}
        gone, now = {}, time.monotonic()
        for cell, job in waiting.items():
            state = states.get(job.job_id)
            if state is not None and not state.ended:
                self._since.pop(cell, None)
                self._say_state(cell, job.job_id, state)
                continue
            patience = RESULT_SECONDS if state else LOST_SECONDS
            if now - self._since.setdefault(cell, now) >= patience and not _has_result(job):
                gone[cell] = _words(state, job)
        return gone

    def _say_whether_it_answers(self, answers: bool) -> None:
        if answers != self._answers:
            self.say("Slurm answers again" if answers else "Slurm's controller does not answer; waiting until it does")
        self._answers = answers

    def _say_state(self, cell: str, job: str, state: JobState) -> None:
        if self._shown.get(cell) == state:
            return
        self._shown[cell] = state
        why = f" ({state.reason})" if state.name == "PENDING" and state.reason else ""
        held = any(word in state.reason.lower() for word in _HELD)
        release = f"; it waits until somebody releases it: scontrol release {job}" if why and held else ""
        self.say(f"job {job}, {cell}: {state.name.lower()}{why}{release}")


def _has_result(job: SubmittedJob) -> bool:
    folder = job.paths.result_pickle.parent
    with suppress(OSError):  # network file systems remember what was not there; a change of the folder makes them look
        folder.chmod(folder.stat().st_mode)
    return job.paths.result_pickle.exists()


def _raised(job: SubmittedJob) -> str | None:
    """What a job that has left its result ended with, in plain words; None where it went well."""
    error = job.exception()
    if error is None:
        return None
    text = str(error)
    if "timed-out" in text:
        return f"job {job.job_id}: did not fit into --hours, and was queued again as often as --restarts allows"
    return f"job {job.job_id}: {last_words(text)}; its output is in {job.paths.stdout}"


def last_words(text: str) -> str:
    """The line of a traceback that names the error, without its module."""
    lines = [
        line
        for line in text.splitlines()
        if line[:1].strip() and ": " in line and not line.startswith(("Job ", "You "))
    ]
    kind, _, message = (lines[-1] if lines else "Error: ended with an error").partition(": ")
    return f"{message:.300}" if kind.rpartition(".")[2].endswith(("Error", "Exception")) else f"{kind}: {message:.300}"


def _words(state: JobState | None, job: Any) -> str:
    output = f"; its output is in {job.paths.stdout}" if job.paths.stdout.is_file() else ""
    if state is None:
        return f"Slurm does not know it any more, and it left no result; run the same command again to go on{output}"
    return f"{ENDED[state.name]} (Slurm: {state.name}){output}"
