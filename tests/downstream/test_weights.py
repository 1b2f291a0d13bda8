"""Checkpoints of nnU-Net: good ones pass, nothing in bad ones is run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from echo_synth.downstream.weights import check_weights
from echo_synth.errors import RunError


def _save(path: Path, **more: object) -> Path:
    weights = {"conv.weight": torch.ones(2, 2)}
    log = {"ema_fg_dice": [np.float64(0.5), np.float32(0.25)], "device": torch.device("cpu")}
    torch.save({"network_weights": weights, "logging": log, "current_epoch": 3} | more, path)
    return path


def test_what_nnunet_writes_passes(tmp_path: Path) -> None:
    check_weights(_save(tmp_path / "good.pth"))


class _Runs:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    file = tmp_path / "bad.pth"
    torch.save({"network_weights": {}, "logging": _Runs(witness)}, file, pickle_protocol=protocol)
    with pytest.raises(RunError, match=r"bad\.pth: damaged, or not weights"):
        check_weights(file)
    assert not witness.exists()


def test_damage_is_named(tmp_path: Path) -> None:
    file = _save(tmp_path / "cut.pth")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(RunError, match="train again"):
        check_weights(file)
    with pytest.raises(RunError, match=r"conv\.weight are not finite"):
        check_weights(_save(tmp_path / "nan.pth", network_weights={"conv.weight": torch.tensor([np.nan])}))
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with pytest.raises(RunError, match="no network_weights"):
        check_weights(tmp_path / "other.pth")
