"""Carries out the stages of a sweep, each as the commands a user would type, in folders of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_synth.errors import EchoSynthError, RunError
from echo_synth.experiment.commands import Command, StageCommands
from echo_synth.experiment.shell import last_line, run_command
from echo_synth.experiment.stages import Cell, Stage
from echo_synth.experiment.workspace import Workspace

Say = Callable[[str], None]


@dataclass(frozen=True)
class Runner:
    """Runs stages, and what they need, that are not done.

    Args:
        workspace: where they leave what they make.
        commands: what to type for them.
    """

    workspace: Workspace
    commands: StageCommands

    def run_cells(self, cells: Sequence[Cell], say: Say = print) -> list[str]:
        """Cells in turn; one that fails does not stop the rest. Returns the names of those that failed."""
        failed = []
        for cell in cells:
            try:
                for stage in cell.stages:
                    if not self.workspace.done(stage):
                        say(f"    {stage.folder}")
                    self.run(stage)
            except EchoSynthError as e:
                say(f"    {e}")
                failed.append(cell.name)
        return failed

    def run(self, stage: Stage) -> None:
        """Carry out a stage after what it needs; returns at once from one that is done.

        Two processes that need the same stage take turns: the second finds it done.

        Raises RunError with the log's name when a command fails.
        """
        for needed in stage.needs.values():
            self.run(needed)
        with self.workspace.lock(stage) as lock:
            if self.workspace.done(stage):
                return
            for dataset in self.commands.linked(stage):
                _link(dataset, self.workspace.folder(stage))
            for command in self.commands.of(stage):
                self._execute(command, stage, lock)
            self.workspace.finish(stage)

    def _execute(self, command: Command, stage: Stage, lock: int) -> None:
        """One command, its output appended to the stage's log. The lock stays held while it runs, whatever becomes of us."""
        log = self.workspace.log(stage)
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"$ echosynth {' '.join(command)}\n")
            output.flush()
            status = run_command(command, self.commands.environment(stage), output, [lock])
        if status:
            reason = f"killed by signal {-status}" if status < 0 else last_line(log)
            raise RunError(f"stage {stage.folder} failed: {reason}; its output is in {log}")


def _link(dataset: Path, folder: Path) -> None:
    link = folder / dataset.name
    if not link.is_symlink():
        link.symlink_to(dataset.resolve(), target_is_directory=True)
