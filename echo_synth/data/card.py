"""CARD.md: what a synthetic dataset is, in words: made from what, by what, on which terms, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echo_synth.data.sources import UNKNOWN, sources

KEY = "echosynth"  # of dataset.json
_USE = (
    "Training and testing image analysis (segmentation, view classification) in research, beside real data or instead of "
    "them; comparing generators. Whatever is trained on it must be judged on real patients whom neither it nor its "
    "generator has seen."
)
_NOT_FOR = (
    "- Diagnosis, treatment or any other decision about a patient: no image shows a real heart as it was.",
    "- Clinical measurements or norms: shapes are random deformations of real masks, textures are drawn.",
    "- Evaluating a model that is meant for patients: synthetic images flatter what was trained on their like.",
    "- Finding out who was in the training data.",
    "- Any use that the licence of the training data does not allow.",
)
# In this order, with words for what the names do not say.
_WORDS = {
    "made_by": "command",
    "version": "version of echosynth",
    "model": "model",
    "size": "size",
    "model_hash": "hash of the weights",
    "vae_hash": "hash of the Γ-VAE's weights",
    "texture_hash": "hash of the texture",
    "nfe": "network evaluations an image (NFE)",
    "solver": "solver",
    "discretization": "noise levels of",
    "sigmas": "noise levels",
    "sigma_max": "highest noise level",
    "precision": "precision",
    "seed": "seed",
    "images": "images",
    "patients": "patients whose masks guide them",
    "maps_hash": "hash of plan and maps",
    "files_hash": "hash of the files that were imported",
    "labels": "label values were read as",
}


def card(name: str, facts: Mapping[str, Any]) -> str:
    """Markdown of the facts in dataset.json, see `facts`.

    Args:
        name: of the dataset.
    """
    rows = [f"| {words} | {_cell(facts[key])} |" for key, words in _WORDS.items() if facts.get(key) not in (None, "")]
    parts = [
        f"# {name}",
        f"{_what(facts)} with their label maps. No image is a recording of a patient.",
        "## How it was made",
        "\n".join(["| | |", "| --- | --- |", *rows]),
        "## Training data and licence",
        _origins(facts),
        f"Licence of this dataset: **{_cell(facts.get('licence', 'not stated'))}**.",
        "## Privacy",
        _privacy(facts.get("privacy")),
        "## Intended use",
        _USE,
        "## Not to be used for",
        "\n".join(
            _NOT_FOR if "shows" not in facts else (line.replace("a real heart", "a real body") for line in _NOT_FOR)
        ),
        "## Whether it is whole",
        f"`echosynth verify` with this folder, or `sha256sum -c SHA256SUMS` in it. The same facts stand in "
        f'dataset.json under "{KEY}".',
    ]
    return "\n\n".join(parts) + "\n"


def _what(facts: Mapping[str, Any]) -> str:
    return f"Synthetic ultrasound images ({_cell(facts['shows'])})" if "shows" in facts else "Synthetic echocardiograms"


def _origins(facts: Mapping[str, Any]) -> str:
    lines = []
    for role, key in (("The model learnt from", "learnt_from"), ("The maps were made from", "maps_from")):
        told = facts.get(key)
        if not isinstance(told, Mapping):
            continue
        source = sources().get(str(told.get("source"))) or sources()[UNKNOWN]
        details = [f"{words} {_cell(told[k])}" for k, words in _DETAILS.items() if told.get(k) not in (None, "")]
        named = f" ({', '.join(details)})" if details else ""
        lines.append(f"- {role} {source.title}{named}. Licence: {source.licence}; {source.terms}.")
        if source.citation:
            lines.append(f"  {source.citation}. {source.address}")
    return "\n".join(lines) or "- Nothing was learnt from data."


_DETAILS = {"dataset": "dataset", "fingerprint": "hash", "patients": "patients:"}


def _privacy(measured: object) -> str:
    if not isinstance(measured, Mapping):
        return (
            "Not measured: `echosynth quality` looks for near copies of training images and notes what it finds here."
        )
    found, unseen = measured.get("synthetic"), measured.get("unseen_real")
    lines = [
        f"`echosynth quality` compared {_cell(measured.get('images'))} images with the training images of "
        f"{_cell(measured.get('real'))}. An image counts as a near copy where it is nearer to one than all but "
        f"{_share(measured.get('rate'))} of unseen real images are.",
        f"- near copies among the synthetic images: {_flagged(found)}",
        f"- the same among unseen real images: {_flagged(unseen)}",
    ]
    return "\n".join((lines[0], "", *lines[1:]))


def _flagged(told: object) -> str:
    if not isinstance(told, Mapping):
        return "not measured"
    low, high = (_share(end) for end in told.get("ci95", (None, None)))
    return f"{_cell(told.get('flagged'))} of {_cell(told.get('images'))}, {_share(told.get('share'))} [{low}, {high}]"


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, (int, float)) else "?"


def _cell(value: object) -> str:
    """Text for one cell: no line breaks and no bars, whatever a name holds."""
    return "".join(c if c.isprintable() else " " for c in str(value)).replace("|", "\\|")
