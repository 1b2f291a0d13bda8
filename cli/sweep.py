"""Runs the stages of a sweep, each as the commands a user would type, in folders of their own."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth.data import nnunet_raw
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import EchoSynthError, RunError
from echo_synth.experiment.cells import Cell, Stage
from echo_synth.experiment.spec import SweepSpec
from echo_synth.files import read_json, write_json
from echo_synth.home import classification, home

DRAWN_ID, MADE_ID = 601, 602
_DONE = "done.json"


@dataclass(frozen=True)
class Runner:
    """Carries out stages below `out`.

    Args:
        spec: the experiment.
        out: its folder: work/ with a folder a stage, results.csv.
        maps: folder of condition maps.
        checkpoints: run folders by the fingerprint of their weights, which the stages' hashes hold.
        device: for every command.
    """

    spec: SweepSpec
    out: Path
    maps: Path
    checkpoints: Mapping[str, Path]
    device: str

    def folder(self, stage: Stage) -> Path:
        return self.out / "work" / stage.folder

    def done(self, stage: Stage) -> bool:
        return (self.folder(stage) / _DONE).is_file()

    def run_cells(self, cells: Sequence[Cell], say: Callable[[str], None] = print) -> list[str]:
        """Cells in turn; one that fails does not stop the rest. Returns the names of those that failed."""
        failed = []
        for cell in cells:
            try:
                for stage in cell.stages:
                    if not self.done(stage):
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
        folder = self.folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / "lock") as handle:
            if self.done(stage):
                return
            for command in self.commands(stage):
                self._execute(command, stage, handle)
            facts = {"kind": stage.kind, "config": dict(stage.config), "seconds_per_image": _seconds_per_image(folder)}
            write_json(folder / _DONE, facts)

    def _execute(self, command: Sequence[object], stage: Stage, lock: int) -> None:
        """One command, its output appended to the stage's log. The lock stays held while it runs, whatever becomes of us."""
        log = self.folder(stage) / "log.txt"
        words = [str(w) for w in command]
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"$ echosynth {' '.join(words)}\n")
            output.flush()
            result = subprocess.run(
                [sys.executable, "-m", "cli.main", *words], env=_shell() | self._environment(stage), stdout=output,
                stderr=subprocess.STDOUT, check=False, pass_fds=(lock,),
            )  # fmt: skip
        if result.returncode:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            how = f"killed by signal {-result.returncode}" if result.returncode < 0 else f"{lines[-1]:.300}"
            raise RunError(f"stage {stage.folder} failed: {how}; its output is in {log}")

    def _environment(self, stage: Stage) -> dict[str, str]:
        """nnU-Net's folders of this stage: whose data it reads, whose results it uses."""
        data = stage if stage.kind == "data" else stage.needs.get("data", stage)
        segmenter = (
            stage if stage.kind == "segmenter" else stage.needs.get("segmenter", stage.needs.get("judge", stage))
        )
        if stage.kind == "predict":
            data = segmenter.needs["data"]
        return {
            "ECHOSYNTH_HOME": str(home()), "nnUNet_raw": str(self.folder(data)),
            "nnUNet_preprocessed": str(self.folder(segmenter) / "preprocessed"), "nnUNet_results": str(self.folder(segmenter) / "results"),
        }  # fmt: skip

    def commands(self, stage: Stage) -> Iterator[list[object]]:
        """What to type for a stage, in order; links that the commands expect are made on the way."""
        folder, config = self.folder(stage), stage.config
        if stage.kind == "data":
            yield from self._data(stage)
        elif stage.kind == "segmenter":
            given = [f"--{k}={config[k]}" for k in ("epochs", "iterations", "seed") if config[k] is not None]
            yield ["train-segmenter", f"--dataset-id={self.dataset_id(stage.needs['data'])}", f"--trainer={config['trainer']}", *given, *self._on]  # fmt: skip
        elif stage.kind == "predict":
            segmenter = stage.needs["segmenter"]
            identity = self.dataset_id(segmenter.needs["data"])
            yield ["predict-segmenter", f"--dataset-id={identity}", f"--trainer={segmenter.config['trainer']}", f"--images={self.real.path / 'imagesTs'}",
                   f"--out={folder / 'predictions'}", "--overwrite", *self._on]  # fmt: skip
        elif stage.kind == "classifier":
            given = [f"--{k}={config[k]}" for k in ("epochs", "resolution", "lr") if config[k] is not None]
            resume = ["--resume"] if (folder / "run" / "state.safetensors").is_file() else ["--overwrite"]
            yield ["train-classifier", self.pictures(stage.needs["data"]), f"--out={folder / 'run'}", *given, *resume, *self._on]  # fmt: skip
        else:
            yield self._evaluate(stage)

    @property
    def _on(self) -> list[object]:
        return [f"--device={self.device}"]

    @property
    def real(self) -> RawDataset:
        return nnunet_raw.find(self.spec.real)

    def dataset_id(self, data: Stage) -> int:
        """Id of the dataset that a data stage is for."""
        kind = data.config["kind"]
        if kind == "real" and data.config["patients"] is None:
            return self.spec.real
        return DRAWN_ID if kind in ("synthetic", "noise") else MADE_ID

    def pictures(self, data: Stage) -> Path:
        """Classification folder of a data stage."""
        return classification() / self.real.name if data.config["kind"] == "real" else self.folder(data) / "classification"  # fmt: skip

    def _data(self, stage: Stage) -> Iterator[list[object]]:
        folder, config = self.folder(stage), stage.config
        kind = config["kind"]
        if kind == "synthetic":
            yield ["generate", f"--model={config['model']}", f"--nfe={config['nfe']}", f"--solver={config['solver']}", f"--seed={config['seed']}",
                   f"--count={config['count']}", f"--batch={config['batch']}", f"--maps={self.maps}", f"--dataset-id={DRAWN_ID}",
                   f"--classification={folder / 'classification'}", f"--checkpoint={self.checkpoints[config['weights']]}", *self._on]  # fmt: skip
            return
        if kind == "noise":
            yield ["noise-dataset", f"--maps={self.maps}", f"--count={config['count']}", f"--seed={config['seed']}",
                   f"--dataset-id={DRAWN_ID}", f"--classification={folder / 'classification'}"]  # fmt: skip
            return
        _link(self.real.path, folder)
        if "base" in stage.needs:
            _link(next(self.folder(stage.needs["base"]).glob(f"Dataset{DRAWN_ID}_*")), folder)
        real, made = f"--real={self.spec.real}", f"--dataset-id={MADE_ID}"
        if kind == "filtered":
            yield ["quality", f"--dataset-id={DRAWN_ID}", real, f"--trainer={stage.needs['judge'].config['trainer']}", "--perceptual=none", "--no-features",
                   f"--low-agreement={config['low_agreement']}", f"--drop={MADE_ID}", f"--out={folder / 'quality'}", "--overwrite", *self._on]  # fmt: skip
        elif kind == "mix" or config["patients"] is not None:
            few = [f"--patients={config['patients']}"] if config["patients"] is not None else []
            mixed = [f"--synthetic={DRAWN_ID}", f"--share={config['share']}"] if kind == "mix" else []
            yield ["mix-datasets", real, made, *mixed, *few, f"--seed={config['seed']}", "--overwrite"]

    def _evaluate(self, stage: Stage) -> list[object]:
        words: list[object] = ["bootstrap-eval", f"--repeats={stage.config['repeats']}", f"--out={self.folder(stage) / 'result'}"]  # fmt: skip
        if "predict" in stage.needs:
            words += [f"--predictions={self.folder(stage.needs['predict']) / 'predictions'}", f"--references={self.real.path / 'labelsTs'}"]  # fmt: skip
        if "baseline" in stage.needs:
            words.append(f"--baseline={self.folder(stage.needs['baseline']) / 'predictions'}")
        if "classifier" in stage.needs:
            words += [f"--classifier={self.folder(stage.needs['classifier']) / 'run'}", f"--images={classification() / self.real.name}"]  # fmt: skip
        return words

    def row(self, cell: Cell) -> dict[str, Any]:
        """The cell's line of results.csv, as far as it is done."""
        facts: dict[str, Any] = {"cell": cell.name, **cell.facts, "state": self.state(cell)}
        data = cell.stages[0]
        if self.done(data) and cell.facts["kind"] == "synthetic":
            facts["seconds_per_image"] = read_json(self.folder(data) / _DONE)["seconds_per_image"]
        evaluated = cell.stage("evaluate")
        if evaluated is not None and self.done(evaluated):
            facts |= _flat(read_json(self.folder(evaluated) / "result" / "metrics.json"))
        return facts

    def per_case(self, cell: Cell) -> pd.DataFrame | None:
        """Scores of the held-out images, once the cell has them."""
        evaluated = cell.stage("evaluate")
        if evaluated is None or not self.done(evaluated):
            return None
        file = self.folder(evaluated) / "result" / "per_case.csv"
        return pd.read_csv(file) if file.is_file() else None

    def drawn(self, cell: Cell) -> RawDataset | None:
        """The synthetic dataset of a cell of the grid, once it is complete."""
        data = cell.stages[0]
        if cell.facts["kind"] != "synthetic" or not self.done(data):
            return None
        return RawDataset(next(self.folder(data).glob(f"Dataset{DRAWN_ID}_*")))

    def state(self, cell: Cell) -> str:
        """'done', or how many of its stages are."""
        finished = sum(self.done(s) for s in cell.stages)
        return "done" if finished == len(cell.stages) else f"{finished}/{len(cell.stages)}"


def _shell() -> dict[str, str]:
    """This process's environment without what would change a trainer behind the spec's back."""
    return {k: v for k, v in os.environ.items() if not k.startswith("ECHOSYNTH_NNUNET_")}


def _flat(metrics: dict[str, Any]) -> dict[str, Any]:
    """metrics.json as columns: dice_lv_endo, dice_lv_endo_low, …"""
    found: dict[str, Any] = {}
    entries = {f"{m}_{s}": e for s, ms in metrics.get("segmentation", {}).items() for m, e in ms.items() if isinstance(e, dict)}  # fmt: skip
    entries |= {k: e for k, e in metrics.get("classification", {}).items() if isinstance(e, dict)}
    entries |= {f"difference_{m}_{s}": e for s, ms in metrics.get("paired", {}).items() for m, e in ms.items()}
    for name, entry in entries.items():
        found[name], (found[f"{name}_low"], found[f"{name}_high"]) = entry["mean"], entry["ci95"]
        if "p_holm" in entry:
            found[f"{name}_p_within_cell"] = entry["p_holm"]
    if "volumes" in metrics:
        found |= {
            "ef_mae": metrics["volumes"]["ef_percent"]["mae"],
            "ef_bias": metrics["volumes"]["ef_percent"]["bias"],
        }
    return found


def _seconds_per_image(folder: Path) -> float | None:
    """What an image took the last attempt of `generate`, from its log: drawing and writing, without start-up and loading."""
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    found = re.findall(r"^drew (\d+) images in ([\d.]+) s", text, re.MULTILINE)
    return float(found[-1][1]) / int(found[-1][0]) if found and int(found[-1][0]) else None


def _link(dataset: Path, folder: Path) -> None:
    link = folder / dataset.name
    if not link.is_symlink():
        link.symlink_to(dataset.resolve(), target_is_directory=True)


@contextmanager
def _lock(path: Path) -> Iterator[int]:
    """Held by one process at a time, through the descriptor that it yields; the system lets go of it with its last holder."""
    with open(path, "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()
