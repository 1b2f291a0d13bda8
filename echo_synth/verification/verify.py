"""A dataset, condition maps or a run against what was recorded when it was made."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from echo_synth import checksums
from echo_synth.checksums import SUMS, Comparison, Fault
from echo_synth.claims import LOCK, holder_of, lock_in
from echo_synth.data.facts import content_of, facts_in, pictures_of
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError, HeldError
from echo_synth.files import read_json
from echo_synth.folders import MARKER
from echo_synth.verification import unrecorded
from echo_synth.verification.verdict import Verdict

_SETTINGS = "settings.json"
_RUN_FILES = ("model.json", "model.safetensors")  # the names in runs.folder, which takes seconds to import


def verify(folder: Path) -> Verdict:
    """Check a raw dataset with its classification folder, such a folder, a folder of condition maps, or a run.

    Raises:
        DataError: `folder` is none of these, or what was recorded of it is damaged.
        HeldError: a command is at work on it.
    """
    verdict = Verdict(folder, _kind(folder))
    _refuse_busy(folder)
    _check(folder, verdict.kind, verdict)
    if verdict.kind == "dataset":
        verdict.facts = _facts(folder)
        _check_twin(folder, verdict)
        _check_references(folder, verdict)
    return verdict


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected a dataset, condition maps or a run of echosynth")
    if (folder / "dataset.json").exists() or (folder / "imagesTr").is_dir():
        return "dataset"
    if any((folder / name).exists() for name in _RUN_FILES):
        return "run"
    if (folder / "index.parquet").exists():
        return "maps"
    if (folder / "cases.csv").exists() or ((folder / MARKER).exists() and (folder / "train").is_dir()):
        return "pictures"
    raise DataError(
        f"{folder}: neither a dataset (dataset.json, or cases.csv beside pictures) nor condition maps (index.parquet) "
        f"nor a run ({_RUN_FILES[0]}) of echosynth"
    )


def _refuse_busy(folder: Path) -> None:
    for lock in {lock_in(folder), *folder.glob(f"{LOCK}-*")}:
        holder = holder_of(lock)
        if holder:
            raise HeldError(f"{folder}: in use by {holder}; verify it when that has ended")


def _check(folder: Path, kind: str, verdict: Verdict, recorded: bool = False) -> None:
    """One folder: by its SHA256SUMS, or without them as far as it goes; `recorded`: it must have had them."""
    if (folder / SUMS).exists():
        verdict.add(folder, checksums.compare(folder))
        return
    verdict.recorded = False
    unfinished = _unfinished(folder, kind)
    if unfinished:
        verdict.notes.append(f"{folder}: {unfinished}")
        verdict.add(folder, Comparison(faults=[Fault("missing", SUMS, "its command did not come to its end")]))
    elif recorded or _says_recorded(folder, kind):
        verdict.add(folder, Comparison(faults=[Fault("missing", SUMS, "the folder was made with one")]))
    verdict.notes.append(
        f"{folder}: no {SUMS}, as folders of earlier versions; checked which files are there and whether each can be read "
        "whole, not every byte"
    )
    verdict.add(folder, _look(folder, kind))


def _look(folder: Path, kind: str) -> Comparison:
    if kind == "run":
        from echo_synth.verification.unrecorded_run import look_at_run

        return look_at_run(folder)
    if kind == "maps":
        return unrecorded.look_at_maps(folder)
    return unrecorded.look_at_dataset(RawDataset(folder)) if kind == "dataset" else unrecorded.look_at_pictures(folder)


def _unfinished(folder: Path, kind: str) -> str:
    """Why there may be no SHA256SUMS, where the command that fills the folder was interrupted; empty otherwise."""
    if kind == "run":
        from echo_synth.verification.unrecorded_run import unfinished

        return unfinished(folder)
    left = any(folder.glob(f"{LOCK}-*"))
    drawn = kind == "dataset" and "identity" in _settings(folder) and not (folder / "manifest.parquet").exists()
    return "drawing was interrupted; the same command continues it" if left or drawn else ""


def _says_recorded(folder: Path, kind: str) -> bool:
    """Whether the folder was made by a version that records hashes."""
    return kind == "dataset" and bool(_facts(folder))


def _settings(folder: Path) -> dict[str, object]:
    try:
        content = read_json(folder / _SETTINGS)
    except DataError:
        return {}
    return content if isinstance(content, dict) else {}


def _facts(folder: Path) -> dict[str, object]:
    try:
        return facts_in(folder)
    except DataError:
        return {}  # a damaged dataset.json is a fault already


def _check_twin(folder: Path, verdict: Verdict) -> None:
    """The classification folder, where settings.json or ECHOSYNTH_HOME says that it is."""
    twin = pictures_of(RawDataset(folder))
    if not twin.is_dir():
        if "classification" in _settings(folder):
            verdict.notes.append(f"{twin}: no classification folder there; not checked")
        return
    _refuse_busy(twin)
    _check(twin, "pictures", verdict, recorded=(folder / SUMS).exists())  # both get theirs from the same command


def _changed_sources(folder: Path, others: Collection[Path]) -> Iterator[Fault]:
    """Of a mixture: datasets that are not those it was made of, by the hashes that its facts hold."""
    of = _mixed_from(folder)
    beside = {p.resolve().name: p.resolve() for p in others} | {p.name: p for p in folder.parent.iterdir()}
    for name, recorded in of.items():
        source = beside.get(str(name))
        if recorded is None or source is None or not source.is_dir():
            continue  # a missing one is missed file by file
        found = content_of(source)
        if found != recorded:
            why = "is another dataset than the one that was mixed; run mix-datasets again"
            yield Fault("altered", str(source), why)


def _mixed_from(folder: Path) -> dict[str, object]:
    """Hashes of what a mixture was made of, by name; empty where its settings.json does not say."""
    of = _facts(folder).get("of")
    return of if isinstance(of, dict) else {}


def _check_references(folder: Path, verdict: Verdict) -> None:
    """Of a mixture: the files in other datasets, whose own SHA256SUMS tell whether they have changed."""
    dataset = RawDataset(folder)
    others: set[Path] = set()
    try:
        cases = dataset.cases()
        rows = [(str(r.case), str(r.split)) for r in cases.itertuples()] if "source" in cases else []
        for case, split in rows:
            for path in (dataset.image_path(case, split), dataset.label_path(case, split)):
                others.add(path.parent.parent)
                if not path.is_file():
                    verdict.faults.append((folder, Fault("missing", str(path), "dataset.json refers to it")))
    except DataError as e:
        verdict.notes.append(str(e))
    verdict.faults += [(folder, fault) for fault in _changed_sources(folder, others)]
    untold = sorted(
        {p.name for p in others} - {name for name, known in _mixed_from(folder).items() if known is not None}
    )
    if untold:
        verdict.recorded = False
        verdict.notes.append(
            f"{folder / _SETTINGS}: holds no hash of {', '.join(untold)}, which may have been replaced since"
        )
    if others:
        verdict.notes.append(f"refers to files of {', '.join(sorted(str(o) for o in others))}; verify these as well")
