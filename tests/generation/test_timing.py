"""timing.json: a record a process and attempt, read by what reports seconds an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cli.generate_commands import generate, noise_dataset
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError
from echo_synth.generation.timing import Attempt, attempts, record_attempt, seconds_per_image, timing_file
from echo_synth.generation.writer import DatasetWriter


def test_the_last_attempt_that_drew_counts(tmp_path: Path) -> None:
    dataset = tmp_path / "Dataset601_EDM"
    assert seconds_per_image(dataset) is None
    for images, seconds in ((4, 8.0), (2, 1.0), (0, 5.0)):
        record_attempt(dataset, Attempt(images, seconds, "cpu", "fp32"))
    record_attempt(tmp_path / "Dataset602_EDM", Attempt(1, 100.0, "cpu", "fp32"))
    assert [a.images for a in attempts(dataset)] == [4, 2, 0]
    assert seconds_per_image(dataset) == 0.5


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    for content in ("[]", '{"Dataset601_X": [{"images": 1}]}', '{"Dataset601_X": 3}'):
        timing_file(tmp_path / "Dataset601_X").write_text(content)
        with pytest.raises(DataError, match=r"timing\.json"):
            attempts(tmp_path / "Dataset601_X")
        record_attempt(tmp_path / "Dataset601_X", Attempt(1, 2.0, "cpu", "fp32"))  # what was drawn counts more
        assert seconds_per_image(tmp_path / "Dataset601_X") == 2.0


@pytest.mark.slow
def test_generate_records_each_attempt_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    for _ in range(2):  # the second finds everything drawn
        generate("edm-l64", 1, count=3, precision="fp32", dataset_id=601)
    (attempt,) = attempts(nnunet_raw.find(601).path)
    assert (attempt.images, attempt.device, attempt.precision, attempt.shard) == (3, "cpu", "fp32", "0/1")
    assert 0 < attempt.seconds < 600
    assert (attempt.torch, attempt.hardware) == (torch.__version__, "")


def test_what_is_written_is_counted_wherever_ctrl_c_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here between the writing of an image and what follows."""
    submit = DatasetWriter.submit

    def submit_and_end(*given: Any) -> None:
        submit(*given)
        raise KeyboardInterrupt

    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    monkeypatch.setattr(DatasetWriter, "submit", submit_and_end)
    with pytest.raises(KeyboardInterrupt):
        noise_dataset(count=4, dataset_id=601)
    folder = nnunet_raw.find(601).path
    assert len(list((folder / "imagesTr").iterdir())) == 1
    assert [a.images for a in attempts(folder)] == [1]


def test_a_record_that_cannot_be_written_costs_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timing.json lies beside the datasets; where many share that folder it may be another user's."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    (tmp_path / "nnunet/raw/timing.json").mkdir(parents=True)
    noise_dataset(count=2, dataset_id=601)
    assert (nnunet_raw.find(601).path / "SHA256SUMS").is_file()
    assert seconds_per_image(nnunet_raw.find(601).path) is None
