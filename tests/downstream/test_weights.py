"""Checkpoints of nnU-Net: good ones pass, nothing in bad ones is run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from echo_synth.downstream.weights import check_weights, fingerprint, read_weights, start_from
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
    with pytest.raises(RunError, match=r"network_weights\.conv\.weight holds values that are not finite"):
        check_weights(_save(tmp_path / "nan.pth", network_weights={"conv.weight": torch.tensor([np.nan])}))
    moments = {"state": {0: {"momentum_buffer": torch.tensor([1.0, np.inf])}}}
    with pytest.raises(RunError, match=r"optimizer_state\.state\.0\.momentum_buffer holds values that are not finite"):
        check_weights(_save(tmp_path / "inf.pth", optimizer_state=moments))
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with pytest.raises(RunError, match="no network_weights"):
        check_weights(tmp_path / "other.pth")


def test_a_network_starts_from_weights_that_are_its_own(tmp_path: Path) -> None:
    network, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    file = _save(tmp_path / "start.pth", network_weights=network.state_dict())
    start_from(other, read_weights(file), file)
    assert torch.equal(other.weight, network.weight)
    for wrong in (torch.nn.Linear(2, 4), torch.nn.Linear(2, 3, bias=False), torch.nn.Sequential(network)):
        with pytest.raises(RunError, match=r"--init .*start\.pth: does not fit .* the same --trainer"):
            start_from(wrong, read_weights(file), file)


def test_weights_are_known_by_their_values(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2, 2), "steps": torch.tensor(3)}
    first = fingerprint(read_weights(_save(tmp_path / "a.pth", network_weights=weights)))
    later = fingerprint(read_weights(_save(tmp_path / "b.pth", network_weights=weights, current_epoch=9)))
    assert first == later
    for change in ({"a": torch.ones(4, 1)}, {"a": torch.zeros(2, 2)}, {"steps": torch.tensor(4)}, {"b": torch.ones(1)}):
        assert fingerprint(weights | change) != first


def test_the_layout_of_weights_in_memory_is_not_part_of_them() -> None:
    plain = {"conv.weight": torch.arange(8.0).view(4, 2, 1, 1), "deep.weight": torch.arange(72.0).view(4, 2, 3, 3)}
    other = {name: w.to(memory_format=torch.channels_last) for name, w in plain.items()}
    assert other["conv.weight"].stride() != plain["conv.weight"].stride()
    assert fingerprint(other) == fingerprint(plain)
