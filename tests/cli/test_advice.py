"""What commands advise: what comes next, and what to do instead of what was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.data_commands import phantom


def test_the_phantom_names_a_free_id(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom(tmp_path / "ph", patients=1, workers=1)
    assert "--dataset-id 502 " in capsys.readouterr().out  # 501 is taken
