"""What commands advise: what comes next, and what to do instead of what was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.data_commands import phantom
from echo_synth.data import nnunet_raw
from echo_synth.errors import DataError


def test_the_phantom_names_a_free_id(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom(tmp_path / "ph", patients=1, workers=1)
    assert "--dataset-id 502 " in capsys.readouterr().out  # 501 is taken


def test_a_missing_dataset_names_what_makes_one(home: Path) -> None:
    with pytest.raises(DataError, match=r"'echosynth generate' for .* --real an id of 'echosynth list datasets'"):
        nnunet_raw.find(601, "--real")
