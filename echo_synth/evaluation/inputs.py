"""What an evaluation judges where the command names nothing: the newest predictions, their references, their cases.csv."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth.data.nnunet_raw import ENDING
from echo_synth.data.tables import read_cases
from echo_synth.errors import DataError
from echo_synth.evaluation.masks import pair_cases
from echo_synth.evaluation.trainings import find_trainings, trained_on
from echo_synth.files import listed, read_json
from echo_synth.home import home, nnunet_folder

FACTS = ("quality", "ef", "sex", "age")
_JUDGED = (".gz", ".csv", ".png", ".mhd", ".raw", ".safetensors")


def newest_predictions() -> Path:
    """The newest folder of ECHOSYNTH_HOME/predictions. Raises DataError when there is none."""
    folders = [p for p in (home() / "predictions").glob("*") if any(p.glob(f"*{ENDING}"))]
    if not folders:
        raise DataError(f"{home() / 'predictions'}: no predictions there; pass --predictions")
    return max(folders, key=lambda p: p.stat().st_mtime)


def references_of(predictions: Path) -> Path:
    """Masks of the dataset whose images predict-segmenter segmented, else labelsTs of the one raw dataset that holds the predicted cases.

    Raises DataError when none does, or several do: which of them is meant cannot be known.
    """
    names = {f.name for f in listed(predictions, f"*{ENDING}")}
    if not names:
        raise DataError(f"{predictions}: no *{ENDING} files; expected segmentations")
    named = _beside_images(predictions)
    if named is not None and named.is_dir() and _holds(named, names):
        return named
    raw = nnunet_folder("nnUNet_raw")
    fitting = [folder for folder in sorted(raw.glob("Dataset*/labelsTs")) if _holds(folder, names)]
    if not fitting:
        raise DataError(f"{predictions}: no dataset in {raw} holds these cases in labelsTs; pass --references")
    if len(fitting) > 1:
        several = ", ".join(folder.parent.name for folder in fitting)
        raise DataError(
            f"{predictions}: several datasets in {raw} hold these cases in labelsTs: {several}; pass --references"
        )
    return fitting[0]


def _holds(folder: Path, names: set[str]) -> bool:
    return names <= {f.name for f in folder.glob(f"*{ENDING}")}


def _beside_images(predictions: Path) -> Path | None:
    """The folder of masks beside that of the images which settings.json of predict-segmenter names; None where it does not."""
    try:
        settings = read_json(predictions / "settings.json")
    except DataError:
        return None
    images = settings.get("images") if isinstance(settings, dict) else None
    if not isinstance(images, str) or not Path(images).name.startswith("images"):
        return None
    return Path(images).with_name(Path(images).name.replace("images", "labels", 1))


def read_case_facts(cases: Path | None, references: Path | None) -> pd.DataFrame | None:
    """What cases.csv knows of each case; None where no file is named and none lies beside the references.

    Returns:
        Columns case, patient (text) and those there of quality (Good, Medium, Poor), ef (%, as the
        cfg states it), sex (F, M), age (years).

    Raises DataError when `cases` is missing, is not a table of cases or lists a case twice.
    """
    if cases is not None and not cases.is_file():
        raise DataError(f"{cases}: missing; expected the cases.csv of convert-camus")
    path = cases or default_cases(references)
    if path is None:
        return None
    table = read_cases(path, ["case", "patient"])
    return table[["case", "patient", *(c for c in FACTS if c in table)]]


def default_cases(references: Path | None) -> Path | None:
    """cases.csv beside the references, where there is one."""
    path = references.parent / "cases.csv" if references else None
    return path if path is not None and path.is_file() else None


@dataclass(frozen=True)
class Inputs:
    """What is judged, found and checked as far as can be done without reading a mask.

    Attributes:
        predictions: folders of masks of one arm, one a training; empty when a classifier alone is judged.
        references: folder of the reference masks.
        case_facts: columns of `read_case_facts`.
        native: folder of references on the images' own grid.
        classifier, images: run folder and classification folder; both or neither.
        baselines: folders of each baseline's trainings, by its name.
        cases: cases.csv, as given.
    """

    predictions: tuple[Path, ...]
    references: Path | None
    case_facts: pd.DataFrame | None
    native: Path | None
    classifier: Path | None
    images: Path | None
    baselines: Mapping[str, tuple[Path, ...]]
    cases: Path | None

    @property
    def judges_references(self) -> bool:
        """Whether references are taken as predictions: all scores will be perfect."""
        references = self.references
        return references is not None and any(p.resolve() == references.resolve() for p in self.predictions)

    @property
    def name(self) -> str:
        """Of the folder where the evaluation is kept by default."""
        judged = self.predictions[0] if self.predictions else self.classifier
        return (judged or Path("evaluation")).resolve().name

    def settings(self) -> dict[str, Any]:
        """For settings.json, with a fingerprint of everything that is read."""
        baselines = {name: list(folders) for name, folders in self.baselines.items()}
        read = [*self.predictions, self.references, *(f for fs in self.baselines.values() for f in fs), self.native]
        cases = self.cases or default_cases(self.references)
        known = [p for p in (*read, cases, self.classifier, self.images) if p is not None]
        return {
            "predictions": list(self.predictions) if len(self.predictions) != 1 else self.predictions[0],
            "references": self.references,
            "cases": self.cases,
            "native": self.native,
            "classifier": self.classifier,
            "images": self.images,
            "baselines": baselines,
            "trained_on": self._trained_on(),
            "inputs": _fingerprint(known),
        }

    def _trained_on(self) -> dict[str, Any]:
        """Dataset and trainer behind each arm's predictions, in words; empty text where their folders do not say."""
        ours = trained_on(self.predictions) if self.predictions else ""
        return {"predictions": ours, "baselines": {name: trained_on(fs) for name, fs in self.baselines.items()}}


def resolve_inputs(
    predictions: Sequence[Path],
    references: Path | None,
    cases: Path | None,
    native: Path | None,
    classifier: Path | None,
    images: Path | None,
    baselines: Sequence[Path] | None,
    baseline_trainings: Sequence[str] | None,
) -> Inputs:
    """Options of bootstrap-eval, completed by what the last runs left.

    Raises DataError, naming the option, for what is missing or does not belong together.
    """
    if (classifier is None) != (images is None):
        raise DataError("--classifier and --images belong together; pass both or neither")
    if not predictions and classifier is None:
        predictions = [newest_predictions()]
    named = name_baselines(baselines or (), baseline_trainings or ())
    if not predictions and (named or references or native):
        raise DataError("--baseline, --references and --native need --predictions; pass the masks to judge")
    for option, folder in (("--references", references), ("--native", native), ("--images", images)):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{option} {folder}: not a folder")
    if predictions:
        arms = [find_trainings(folders) for folders in (predictions, *named.values())]
        references = references or references_of(arms[0][0].folder)
        for training in (t for arm in arms for t in arm):
            pair_cases(training.folder, references)
    if classifier is not None and not classifier.is_dir():
        raise DataError(f"--classifier {classifier}: not a folder; expected the run folder of train-classifier")
    case_facts = read_case_facts(cases, references)
    return Inputs(tuple(predictions), references, case_facts, native, classifier, images, named, cases)


def name_baselines(folders: Sequence[Path], trainings: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Baselines by name: each of `folders` by its own, and those of NAME=DIR, whose trainings come together.

    Folders of one name are told apart by their whole paths. Raises DataError for a text without "=",
    or a name that both have.
    """
    names = [f.resolve().name for f in folders]
    result = {n if names.count(n) == 1 else str(f): (f,) for n, f in zip(names, folders, strict=True)}
    arms: dict[str, tuple[Path, ...]] = {}
    for text in trainings:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise DataError(f"--baseline-seed '{text}': expected NAME=DIR, e.g. real=predictions/real_seed1")
        arms[name] = (*arms.get(name, ()), Path(folder))
    if both := result.keys() & arms.keys():
        raise DataError(f"--baseline-seed {min(both)}=…: --baseline has that name too; choose another")
    return result | arms


def _fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 of the names and bytes of masks, tables, images and weights at or below `paths`."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in _JUDGED and file.is_file():
                digest.update(str(file.relative_to(path)).encode(errors="surrogateescape"))
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
