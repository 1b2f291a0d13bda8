"""Where the stages of a sweep leave what they make: a folder each below work/."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from echo_synth.claims import Claim, claim, lock_beside
from echo_synth.data import nnunet_raw
from echo_synth.data.facts import pictures_of
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError
from echo_synth.experiment.stages import DERIVED_ID, DRAWN_ID, DRAWN_KINDS, IMPORTED, Cell, Stage, StageKind
from echo_synth.files import write_json
from echo_synth.generation.timing import seconds_per_image
from echo_synth.home import classification
from echo_synth.records import read_json_as

_DONE = "done.json"


class Done(BaseModel):
    """Of a done.json, what is read again."""

    seconds: float | None = None
    seconds_per_image: float | None = None
    config: dict[str, str | int | float | None] = {}


def read_done(out: Path, kind: StageKind) -> list[Done]:
    """The stages of a kind that are done below the sweep's folder `out` and know what they took; empty where none is.

    Raises DataError for a damaged record.
    """
    files = sorted((out / "work").glob(f"{kind}-*/{_DONE}"))
    records = [read_json_as(Done, file, "echosynth sweep") for file in files]
    return [r for r in records if r.seconds]


@dataclass(frozen=True)
class Workspace:
    """Folders of a sweep.

    Args:
        out: the sweep's folder: work/ with a folder a stage, results.csv.
        real: the dataset of real patients, in nnU-Net's raw format.
    """

    out: Path
    real: RawDataset

    def folder(self, stage: Stage) -> Path:
        return self.out / "work" / stage.folder

    def log(self, stage: Stage) -> Path:
        """Output of the stage's commands, all attempts."""
        return self.folder(stage) / "log.txt"

    def done(self, stage: Stage) -> bool:
        return (self.folder(stage) / _DONE).is_file()

    def finish(self, stage: Stage, took: float | None) -> None:
        """Mark a stage as done, with the seconds it took, None if unknown; for drawn data, also with what an image took."""
        drawn = stage.config.get("kind") in ("synthetic", "bmode")
        seconds = seconds_per_image(self.drawn(stage).path) if drawn else None
        record = {"kind": stage.kind, "config": dict(stage.config), "seconds_per_image": seconds, "seconds": took}
        write_json(self.folder(stage) / _DONE, record)

    def seconds(self, stage: Stage) -> float | None:
        """What the stage, which is done, took; None where nobody measured."""
        return self._record(stage).seconds

    def seconds_per_image(self, stage: Stage) -> float | None:
        """As it was measured when the stage, which is done, ended."""
        return self._record(stage).seconds_per_image

    def _record(self, stage: Stage) -> Done:
        return read_json_as(Done, self.folder(stage) / _DONE, "echosynth sweep")

    def hold(self, stage: Stage) -> AbstractContextManager[Claim]:
        """The stage's folder, claimed beside it (its commands claim what is inside); waits for as long as another has it."""
        return claim(lock_beside(self.folder(stage)), wait=math.inf)

    def state(self, cell: Cell) -> str:
        """'done', or how many of its stages are: '2/5'."""
        finished = sum(self.done(s) for s in cell.stages)
        return "done" if finished == len(cell.stages) else f"{finished}/{len(cell.stages)}"

    def dataset_id(self, data: Stage) -> int:
        """nnU-Net's id of the dataset that a data stage makes or refers to."""
        kind = data.config["kind"]
        if kind == "real" and data.config["patients"] is None:
            return self.real.id
        if kind == IMPORTED:
            return int(data.config["dataset"] or 0)
        return DRAWN_ID if kind in DRAWN_KINDS else DERIVED_ID

    def drawn(self, data: Stage) -> RawDataset:
        """The dataset that a data stage of one of DRAWN_KINDS drew. Raises DataError where it was removed."""
        return RawDataset(self._one(data, f"Dataset{DRAWN_ID}_*"))

    def is_drawn(self, data: Stage) -> bool:
        """Whether a data stage is done and its images are still there."""
        return self.done(data) and any(self.folder(data).glob(f"Dataset{DRAWN_ID}_*"))

    def _one(self, stage: Stage, pattern: str) -> Path:
        """What fits `pattern` in a stage's folder. Raises DataError where it was removed."""
        found = next(self.folder(stage).glob(pattern), None)
        if found is None:
            raise DataError(f"{self.folder(stage)}: no {pattern} there; {self.again(stage)}")
        return found

    def again(self, stage: Stage) -> str:
        """What to do where results of a stage that is done are missing or damaged."""
        return f"delete the folder {self.folder(stage)}, and the same sweep makes it again"

    def images(self, data: Stage) -> Path:
        """Classification folder of a data stage."""
        if data.config["kind"] == IMPORTED:
            return pictures_of(nnunet_raw.find(self.dataset_id(data)))
        return self.real_images if data.config["kind"] == "real" else self.folder(data) / "classification"

    @property
    def real_images(self) -> Path:
        """Classification folder of the real patients."""
        return classification() / self.real.name

    def predictions(self, predict: Stage) -> Path:
        return self.folder(predict) / "predictions"

    def result(self, stage: Stage) -> Path:
        """metrics.json and per_case.csv of an evaluation; quality.json of judged images."""
        return self.folder(stage) / "result"

    def trained(self, segmenter: Stage) -> Path:
        """nnU-Net's folder of the fold that a segmenter stage trained. Raises DataError where it was removed."""
        return self._one(segmenter, f"results/Dataset*/{segmenter.config['trainer']}__*/fold_0")

    def classifier_run(self, classifier: Stage) -> Path:
        return self.folder(classifier) / "run"
