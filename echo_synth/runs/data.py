"""data.json of a run: what it was trained on, so that its patients can be kept out of evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from echo_synth.errors import RunError
from echo_synth.files import LISTS_CASES, read_json, write_json

DATA = "data.json"


@dataclass(frozen=True)
class TrainingData:
    """The data of a training.

    Attributes:
        dataset: name of the raw dataset.
        fingerprint: of its prepared pixels; changes when any image or label does.
        train, val: patients.
        source: where they come from, see `data.facts`; "unknown" where runs of earlier versions do not say.
        subject: `data.subject.Subject.key` of the dataset; empty, and not written, for CAMUS's heart.
        inherited: patients of the runs that it began with: its Γ-VAE, --init, a teacher.
    """

    dataset: str
    fingerprint: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    source: str = "unknown"
    subject: str = ""
    inherited: tuple[str, ...] = ()

    @property
    def patients(self) -> tuple[str, ...]:
        return self.train + self.val + self.inherited

    def after(self, runs: Iterable[Path]) -> TrainingData:
        """With what the runs in these folders were trained on, as far as they say so, and where it is not another dataset's patients."""
        known = [found for run in runs if (found := training_data_of(run)) is not None and found.is_of(self.source)]
        more = {p for found in known for p in found.patients} - set(self.train) - set(self.val)
        return replace(self, inherited=tuple(sorted(more)))

    def is_of(self, source: str) -> bool:
        """Whether its patients may be those of `source`, whose names mean the same people; unknown ones may be."""
        return "unknown" in (self.source, source) or self.source == source


def write_training_data(folder: Path, data: TrainingData) -> None:
    """Write data.json of the run in `folder`."""
    write_json(
        folder / DATA,
        {key: value for key, value in asdict(data).items() if value or key not in ("subject", "inherited")},
    )


def training_data_of(folder: Path) -> TrainingData | None:
    """What the run in `folder` was trained on; None for imported and older runs. Raises RunError when it is damaged."""
    file = folder / DATA
    if not file.is_file():
        return None
    content = read_json(file, LISTS_CASES)  # of imported images each may be a patient of its own
    try:
        patients = _names(content["train"]), _names(content["val"])
        origin = content.get("source", "unknown"), content.get("subject", "")
        inherited = _names(content.get("inherited", []))
        data = TrainingData(content["dataset"], content["fingerprint"], *patients, *origin, inherited)
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{file}: expected dataset, fingerprint, train and val") from None
    if not all(isinstance(v, str) for v in (data.dataset, data.fingerprint, data.source, data.subject, *data.patients)):
        raise RunError(f"{file}: expected names of patients, found something else")
    return data


def _names(value: object) -> tuple[str, ...]:
    """Of a list; a text would fall apart into letters, whom no dataset holds out. Raises TypeError for what is none."""
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__}")
    return tuple(value)
