"""What a dataset was made from and by: of a synthetic one under one key of its dataset.json, and in words in its CARD.md;
of a converted or mixed one, whose dataset.json is nnU-Net's alone, under the same key of its settings.json.

nnU-Net reads other keys and ignores this one; so do our trainers: a fact that is added later (privacy, once `quality`
has measured it) makes no training stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from echo_synth import checksums, specs
from echo_synth.claims import claim, lock_in
from echo_synth.data.card import KEY, card
from echo_synth.data.nnunet_raw import RawDataset, describe
from echo_synth.data.sources import CAMUS, OTHER, SIMULATED, UNKNOWN, sources
from echo_synth.errors import DataError
from echo_synth.files import LISTS_CASES, read_json, write_json, write_text
from echo_synth.folders import maker
from echo_synth.home import classification

CARD = "CARD.md"
DATASET = "dataset.json"
_WAIT_SECONDS = 60.0  # for another command that adds a fact


def strictest(origins: Iterable[str]) -> str:
    """Of origins, the one whose terms hold for what is made from data of all of them."""
    known = {o if o in sources() else UNKNOWN for o in origins}
    return next(o for o in (CAMUS, UNKNOWN, OTHER, SIMULATED) if o in known or o == SIMULATED)


def terms(origins: Iterable[str]) -> dict[str, str]:
    """The facts "source" and "licence" of what is made from data of these origins."""
    source = strictest(origins)
    return {"source": source, "licence": sources()[source].licence}


def facts_in(folder: Path) -> dict[str, Any]:
    """The facts of a raw dataset: in dataset.json of a synthetic one, in settings.json of others; empty where it has none.

    Raises DataError when dataset.json is damaged.
    """
    described = describe(RawDataset(folder))
    facts = described[KEY] if KEY in described else _settings(folder).get(KEY, {})
    if not isinstance(facts, dict):
        raise DataError(f"{folder / DATASET}: \"{KEY}\" is no object; expected what 'echosynth generate' writes")
    return facts


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = read_json(folder / "settings.json")
    except DataError:
        return {}
    return settings if isinstance(settings, dict) else {}


def content_of(folder: Path) -> str | None:
    """Hash of a raw dataset's files, by its SHA256SUMS, but of those that tell about it: facts may be added later."""
    return checksums.content_hash(folder, (DATASET, CARD))


def pictures_of(dataset: RawDataset) -> Path:
    """Classification folder of a raw dataset: where settings.json says, if it is still there, else below ECHOSYNTH_HOME."""
    written = _settings(dataset.path).get("classification")
    below = classification() / dataset.path.resolve().name
    return Path(written) if isinstance(written, str) and Path(written).is_dir() else below


def origin_of_dataset(folder: Path) -> str:
    """Origin of a converted dataset: as it states it, or as far as the folder tells; "unknown" otherwise."""
    try:
        stated = facts_in(folder).get("source")
    except DataError:
        return UNKNOWN
    if isinstance(stated, str):
        return stated
    return CAMUS if maker(folder) == "convert-camus" else UNKNOWN  # of a version that did not state it


def origin_of_maps(folder: Path) -> str:
    """Origin of the masks that a map folder was made from."""
    if folder.absolute().is_relative_to(specs.root()):
        return SIMULATED  # bundled
    settings = _settings(folder)
    stated, dataset = settings.get("source"), settings.get("dataset")
    if isinstance(stated, str):
        return stated
    return origin_of_dataset(Path(dataset)) if isinstance(dataset, str) else UNKNOWN


def write_facts(folder: Path, facts: Mapping[str, Any], name: str | None = None) -> None:
    """Put `facts` into dataset.json of the raw dataset `folder` and, in words, into CARD.md; `name` where it has another yet."""
    described = read_json(folder / DATASET, LISTS_CASES)
    write_json(folder / DATASET, {**described, KEY: dict(facts)})
    write_text(folder / CARD, card(name or folder.name, facts))


def add_facts(folder: Path, more: Mapping[str, Any]) -> bool:
    """Add to the facts of a finished dataset with a card, and renew its SHA256SUMS; False, and nothing is done, for others.

    Raises DataError when the folder cannot be written, HeldError when another command is at it.
    """
    known = facts_in(folder)
    if not known or not (folder / CARD).is_file():
        return False
    with claim(lock_in(folder), wait=_WAIT_SECONDS):
        write_facts(folder, {**known, **more})
        checksums.renew(folder, [DATASET, CARD])
    return True
