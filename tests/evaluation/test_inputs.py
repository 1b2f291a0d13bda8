"""What an evaluation takes where the command names nothing, and by what it knows its inputs again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from echo_synth.data.nifti import write_image
from echo_synth.errors import DataError
from echo_synth.evaluation.inputs import Inputs, references_of, resolve_inputs
from echo_synth.files import write_json

_CASES = tuple(f"patient0001_{view}_{phase}" for view in ("2CH", "4CH") for phase in ("ED", "ES"))


def _masks(folder: Path, cases: tuple[str, ...] = _CASES) -> Path:
    folder.mkdir(parents=True)
    for case in cases:
        write_image(folder / f"{case}.nii.gz", np.eye(8, dtype=np.uint8), (0.5, 0.5))
    return folder


def _resolved(tmp_path: Path, references: Path | None, classifier: bool = False) -> Inputs:
    run, images = (tmp_path / "run", tmp_path / "images") if classifier else (None, None)
    return resolve_inputs([tmp_path / "pred"], references, None, None, run, images, None, None)


def test_other_weights_and_other_facts_are_other_inputs(tmp_path: Path) -> None:
    """An evaluation of the same inputs may be written again unasked; of a classifier that was trained on, or other ages, not."""
    _masks(tmp_path / "pred")
    references = _masks(tmp_path / "Dataset501_A/labelsTs")
    (tmp_path / "run").mkdir()
    (tmp_path / "images").mkdir()
    known = []
    for weights, ef in ((b"1", "60"), (b"2", "60"), (b"2", "40")):
        (tmp_path / "run/model.safetensors").write_bytes(weights)
        rows = "".join(f"{case},patient0001,{ef}\n" for case in _CASES)
        (tmp_path / "Dataset501_A/cases.csv").write_text("case,patient,ef\n" + rows)
        known.append(_resolved(tmp_path, references, classifier=True).settings()["inputs"])
    assert len(set(known)) == 3
    assert _resolved(tmp_path, references, classifier=True).settings()["inputs"] == known[-1]


def test_references_are_those_of_the_images_that_were_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several datasets with the same cases the first is as good as any, so none is taken unasked."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    predictions = _masks(tmp_path / "pred", _CASES[:2])
    with pytest.raises(DataError, match=r"no dataset in .*raw holds these cases in labelsTs; pass --references"):
        references_of(predictions)
    whole = _masks(tmp_path / "raw/Dataset502_B/labelsTs")
    assert references_of(predictions) == whole
    _masks(tmp_path / "raw/Dataset501_A/labelsTs")
    with pytest.raises(DataError, match="labelsTs: Dataset501_A, Dataset502_B; pass --references"):
        references_of(predictions)
    write_json(predictions / "settings.json", {"images": str(whole.parent / "imagesTs")})
    assert references_of(predictions) == whole
    elsewhere = _masks(tmp_path / "other/labelsTr")
    write_json(predictions / "settings.json", {"images": str(elsewhere.parent / "imagesTr")})
    assert references_of(predictions) == elsewhere
    for told in (
        {"images": str(tmp_path / "gone/imagesTs")},
        {"images": "images\0"},
        {"images": 5},
        {"images": "/"},
        [],
    ):
        write_json(predictions / "settings.json", told)
        with pytest.raises(DataError, match="several datasets"):
            references_of(predictions)
