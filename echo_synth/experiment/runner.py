"""Carries out the stages of a sweep, each as the commands a user would type, in folders of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_synth.errors import EchoSynthError, RunError
from echo_synth.experiment.commands import Command, StageCommands
from echo_synth.experiment.contents import check_unchanged
from echo_synth.experiment.shell import last_line, run_command
from echo_synth.experiment.stages import Cell, Stage, StageKind, in_order
from echo_synth.experiment.workspace import Workspace
from echo_synth.files import PARTIAL
from echo_synth.interrupt import continue_with, resume_hint
from echo_synth.progress import Meter

Say = Callable[[str], None]
IN_WORDS: Mapping[StageKind, str] = {
    "data": "make the dataset",
    "segmenter": "train the segmenter",
    "predict": "segment the held-out images",
    "classifier": "train the view classifier",
    "quality": "judge the images",
    "evaluate": "evaluate",
}


@dataclass(frozen=True)
class Runner:
    """Runs stages, and what they need, that are not done.

    Args:
        workspace: where they leave what they make.
        commands: what to type for them.
    """

    workspace: Workspace
    commands: StageCommands

    def run_cells(
        self, cells: Sequence[Cell], say: Say = print, after_each: Callable[[], object] = lambda: None
    ) -> list[str]:
        """Cells in turn; one that fails does not stop the rest. Returns the names of those that failed."""
        pending = _pending(cells, self.workspace)
        meter = Meter(len(pending), "sweep", "stages")
        failed = []
        try:
            for i, cell in enumerate(cells, 1):
                say(f"[{i}/{len(cells)}] {cell.name}: {self.workspace.state(cell)}")
                try:
                    self._run_cell(cell, pending, meter, say)
                except EchoSynthError as e:
                    say(f"    {e}")
                    failed.append(cell.name)
                if i < len(cells):  # after the last one the caller does
                    after_each()
        finally:
            meter.close()
        return failed

    def _run_cell(self, cell: Cell, pending: set[str], meter: Meter, say: Say) -> None:
        for stage in in_order(cell.stages):
            if stage.key not in pending:
                continue
            doing = f"{cell.name}: {IN_WORDS[stage.kind]}"
            say(f"    {IN_WORDS[stage.kind]} ({stage.folder})")
            meter.update(0, doing)
            saved = f"stages that are done are kept; it was at {doing}"
            with resume_hint(continue_with(), saved):
                self.run(stage)
            pending.discard(stage.key)
            meter.update(1, doing)

    def run(self, stage: Stage) -> None:
        """Carry out a stage after what it needs; returns at once from one that is done.

        Two processes that need the same stage take turns: the second finds it done.

        Raises RunError with the log's name when a command fails, HeldError when another process took the stage over, DataError
        when an input is not what it was when the sweep was planned.
        """
        for needed in stage.needs.values():
            self.run(needed)
        with self.workspace.hold(stage) as held:
            self.workspace.folder(stage).mkdir(parents=True, exist_ok=True)
            for dataset in self.commands.linked(stage):
                _link(dataset, self.workspace.folder(stage))
            if self.workspace.done(stage):
                return
            check_unchanged(stage, self.commands.inputs)
            first, start = not self.workspace.log(stage).exists(), time.monotonic()
            for command in self.commands.of(stage):
                held.check()
                self._execute(command, stage)
            held.check()
            # Of a stage that was cut off, the last attempt did only what was left.
            self.workspace.finish(stage, time.monotonic() - start if first else None)

    def _execute(self, command: Command, stage: Stage) -> None:
        """One command, its output appended to the stage's log."""
        log = self.workspace.log(stage)
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"$ echosynth {' '.join(command)}\n")
            output.flush()
            status = run_command(command, self.commands.environment(stage), output)
        if status:
            reason = f"killed by signal {-status}" if status < 0 else last_line(log)
            raise RunError(f"{IN_WORDS[stage.kind]} failed: {reason}; its output is in {log}")


def _pending(cells: Sequence[Cell], workspace: Workspace) -> set[str]:
    """Keys of the stages that are not done; what cells share counts once."""
    return {s.key for cell in cells for s in in_order(cell.stages) if not workspace.done(s)}


def _link(dataset: Path, folder: Path) -> None:
    """Point to where a dataset lies now; a sweep's folder or the data may have been moved since."""
    link, place = folder / dataset.name, dataset.resolve()
    if link.is_symlink() and Path(os.readlink(link)) == place:
        return
    new = folder / f"{PARTIAL}{dataset.name}"
    new.unlink(missing_ok=True)
    new.symlink_to(place, target_is_directory=True)
    os.replace(new, link)
