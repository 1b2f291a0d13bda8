"""What dataset.json and CARD.md of a synthetic dataset say: by what and from what its images were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth import __version__, specs
from echo_synth.data.facts import origin_of_dataset, origin_of_maps, terms
from echo_synth.data.sources import SIMULATED, UNKNOWN
from echo_synth.data.subject import subject_of
from echo_synth.home import nnunet_folder
from echo_synth.runs.data import training_data_of
from echo_synth.runs.folder import DiffusionRun


def learnt_from(run: DiffusionRun) -> dict[str, Any]:
    """Source, dataset, fingerprint and number of patients of what a model was trained on, as far as the run tells."""
    name = run.description.trained_on
    if run.folder.absolute().is_relative_to(specs.root()):
        return {"source": SIMULATED, "dataset": name}
    known = training_data_of(run.folder)
    folder = nnunet_folder("nnUNet_raw") / name if name else None
    found = origin_of_dataset(folder) if folder and (folder / "dataset.json").is_file() else UNKNOWN
    if known is None:
        return {"source": found, "dataset": name}
    source = known.source if known.source != UNKNOWN else found  # runs of earlier versions do not say
    content = {"dataset": known.dataset, "fingerprint": known.fingerprint, "patients": len(known.patients)}
    return {"source": source, **content}


def dataset_facts(
    made_by: str,
    recorded: Mapping[str, Any],
    rows: pd.DataFrame,
    maps: Path,
    maps_hash: str,
    learnt: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Facts of a dataset that is drawn from maps.

    Args:
        recorded: columns of the manifest that are the same for all images.
        rows: the plan, see `manifest.plan_images`.
        maps, maps_hash: their folder, and the hash of plan and pixels.
        learnt: see `learnt_from`; None where nothing was learnt.
    """
    known = {key: value for key, value in recorded.items() if value is not None and key != "trained_on"}
    guides, subject = {"source": origin_of_maps(maps)}, subject_of(maps)
    origins = [guides["source"], *([str(learnt["source"])] if learnt else [])]
    return {
        "made_by": made_by,
        "version": __version__,
        "kind": "synthetic",
        **({} if subject.is_heart else {"shows": subject.title}),
        **known,
        "images": len(rows),
        "patients": int(rows["patient"].nunique()),
        "maps_hash": maps_hash,
        **({"learnt_from": dict(learnt)} if learnt else {}),
        "maps_from": guides,
        **terms(origins),
    }
