"""What lies below ECHOSYNTH_HOME and nnU-Net's folders: datasets, maps, runs, segmenters, predictions, evaluations.

Nothing is opened but small files of ours, and nothing is believed: what cannot be read is listed as damaged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo_synth.data.nnunet_raw import ENDING
from echo_synth.errors import EchoSynthError
from echo_synth.files import LISTS_CASES, disk_error, read_json
from echo_synth.home import home, maps, nnunet_folder, runs
from echo_synth.runs.description import Description
from echo_synth.runs.folder import read_description
from echo_synth.runs.progress import progress_of

DATASETS, MAPS, RUNS, SEGMENTERS = "datasets", "maps", "runs", "segmenters"
PREDICTIONS, RESULTS = "predictions", "results"
KINDS = (DATASETS, MAPS, RUNS, SEGMENTERS, PREDICTIONS, RESULTS)
_RESULT_FILES = {
    "metrics.json": "evaluation",
    "quality.json": "quality",
    "report.html": "report",
}
_SWEEP, _CELLS = "sweep", "results.csv"
_ABSENT = (OSError, EchoSynthError)


@dataclass(frozen=True)
class Entry:
    """One thing that a command made.

    Attributes:
        kind: datasets, maps, runs, segmenters, predictions or results.
        name: of its folder.
        path: of its folder.
        what: what it is, in a few words.
        made_from: what it was made from, as its settings say; empty where they do not.
        state: "" when finished, else what is missing.
        count: images, maps or files; None where counting means nothing.
        size: bytes of everything in it.
        modified: seconds since 1970, of its youngest file.
    """

    kind: str
    name: str
    path: str
    what: str
    made_from: str
    state: str
    count: int | None
    size: int
    modified: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inventory(kinds: Collection[str] = KINDS) -> Iterator[Entry]:
    """Everything of these kinds in ECHOSYNTH_HOME and nnU-Net's folders, kind by kind, by name.

    Raises DataError where one of these cannot be read.
    """
    for parent, kind, describe in _places():
        if kind not in kinds:
            continue
        try:
            folders = sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            raise disk_error(e, parent) from None
        for folder in folders:
            yield from _entry(kind, folder, describe)


@dataclass(frozen=True)
class _Said:
    what: str
    made_from: str = ""
    state: str = ""
    count: int | None = None


_Describe = Callable[[Path], _Said | None]


def _places() -> Iterator[tuple[Path, str, _Describe]]:
    yield nnunet_folder("nnUNet_raw"), DATASETS, _dataset
    yield maps(), MAPS, _maps
    yield runs(), RUNS, _run
    yield nnunet_folder("nnUNet_results"), SEGMENTERS, _segmenter
    yield home() / "predictions", PREDICTIONS, _predictions
    for name in ("evaluation", "quality", "sweeps"):
        yield home() / name, RESULTS, _result
    yield home(), RESULTS, _result


def _entry(kind: str, folder: Path, describe: _Describe) -> Iterator[Entry]:
    try:
        said = describe(folder)
    except _ABSENT as e:
        said = _Said("damaged", state=str(e).splitlines()[0])
    if said is not None:
        size, modified = _extent(folder)
        yield Entry(kind, folder.name, str(folder), said.what, said.made_from, said.state, said.count, size, modified)


def _extent(folder: Path) -> tuple[int, float]:
    """Bytes of all files below, and when the youngest changed; what vanishes or may not be read counts for nothing."""
    size, modified = 0, 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))
            except OSError:
                continue
            size, modified = size + found.st_size, max(modified, found.st_mtime)
    return size, modified


def _settings(folder: Path) -> dict[str, Any]:
    """settings.json of a folder, empty where there is none."""
    file = folder / "settings.json"
    content = read_json(file) if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _named(settings: dict[str, Any], *keys: str) -> str:
    """Last parts of the paths that these settings hold, those that they do hold."""
    return ", ".join(Path(value).name for key in keys if isinstance(value := settings.get(key), str) and value)


def _count(folder: Path, ending: str) -> int:
    return sum(1 for e in os.scandir(folder) if e.name.endswith(ending)) if folder.is_dir() else 0


def _training_images(folder: Path) -> int:
    """What dataset.json says of their number; that of a mixture names every case."""
    file = folder / "dataset.json"
    content = read_json(file, LISTS_CASES) if file.is_file() else {}
    number = content.get("numTraining") if isinstance(content, dict) else None
    return number if isinstance(number, int) else 0


def _dataset(folder: Path) -> _Said | None:
    if not folder.name.startswith("Dataset"):
        return None
    settings, count = _settings(folder), _count(folder / "imagesTr", ENDING) + _count(folder / "imagesTs", ENDING)
    if not count:  # a mixture names the files of others
        count = _training_images(folder)
    command = settings.get("command")
    if command == "generate":
        words = [str(settings.get("model", "")), *([f"NFE {settings['nfe']}"] if settings.get("nfe") else [])]
        what = f"synthetic, {' '.join(words)}"
    else:
        known = {"convert-camus": "real, converted", "convert": "converted by its spec"}
        known |= {"mix-datasets": "mixture", "noise-dataset": "noise textures"}
        what = known.get(str(command), str(command or "of another program"))
    planned = settings.get("count")
    whole = (folder / "dataset.json").is_file() and not (isinstance(planned, int) and count < planned)
    state = "" if whole else f"unfinished: {count} of {planned} images" if planned else "unfinished"
    return _Said(what, _named(settings, "checkpoint", "maps", "source"), state, count)


def _maps(folder: Path) -> _Said | None:
    if not (folder / "index.parquet").is_file():
        return None
    settings = _settings(folder)
    recipe = settings.get("recipe")
    what = f"condition maps, recipe {Path(str(recipe)).name}" if recipe else "condition maps"
    return _Said(what, _named(settings, "dataset"), count=_count(folder, ".png"))


def _run(folder: Path) -> _Said | None:
    if not (folder / "model.json").is_file():
        return None
    description: Description = read_description(folder)
    progress = progress_of(folder)
    size, distilled = getattr(description, "size", None), getattr(description, "distilled", None)
    what = " ".join(filter(None, (description.model, size, "distilled" if distilled else "")))
    seen = "" if progress is None else str(progress)
    unfinished = progress is not None and not progress.finished
    state = seen if unfinished else "" if (folder / "model.safetensors").is_file() else "unfinished: no weights yet"
    what = what if unfinished or not seen else f"{what}, {seen}"
    return _Said(what, getattr(description, "trained_on", None) or "", state)


def _segmenter(folder: Path) -> _Said | None:
    if not folder.name.startswith("Dataset"):
        return None
    trained = sorted(p.name.split("__")[0] for p in folder.iterdir() if p.is_dir() and "__" in p.name)
    final = list(folder.glob("*/fold_*/checkpoint_final.pth"))
    state = "" if len(final) >= len(trained) else f"unfinished: {len(trained) - len(final)} of {len(trained)} trainers"
    return _Said(", ".join(trained) or "nothing trained", folder.name, state)


def _predictions(folder: Path) -> _Said | None:
    settings, count = _settings(folder), _count(folder, ENDING)
    if not count and not settings:
        return None
    return _Said("segmentations", _named(settings, "dataset", "images"), count=count)


def _result(folder: Path) -> _Said | None:
    settings = _settings(folder)
    is_sweep = settings.get("command") == _SWEEP  # begun, whether or not a cell of it is done
    kinds = [kind for file, kind in _RESULT_FILES.items() if (folder / file).is_file()]
    if not (kinds or is_sweep):
        return None
    made_from = _named(settings, "predictions", "dataset", "maps")
    return _Said(", ".join([*([_SWEEP] if is_sweep else []), *kinds]), made_from, _cells(folder) if is_sweep else "")


def _cells(sweep: Path) -> str:
    """How many cells of a sweep are done, where not all are. Raises DataError for a damaged results.csv."""
    if not (sweep / _CELLS).is_file():
        return "unfinished: no cell is done"
    from echo_synth.report.reading import read_sweep_results

    states = read_sweep_results(sweep / _CELLS)["state"]
    done = int((states == "done").sum())
    return "" if done == len(states) else f"unfinished: {done} of {len(states)} cells"
