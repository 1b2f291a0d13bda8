"""The reader of maps: its loss in closed form, its blur against scipy's, and a training that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from cli.train_commands import train
from echo_synth import specs
from echo_synth.diffusion.map_reading import reading_loss
from echo_synth.runs.tensors import load_tensors
from echo_synth.training import map_reader
from echo_synth.training.map_reader import READER, _blurred, build_reader, train_reader
from echo_synth.training.tasks.diffusion import DiffusionTask, Fields

BUNDLED_VAE = specs.root() / "bundled" / "gamma-vae-64"


def test_loss_is_zero_where_the_map_is_read_and_known_where_nothing_is() -> None:
    shares = torch.zeros(2, 5, 8, 8)
    shares[:, 1], shares[:, 4] = 0.25, 0.75
    sector = torch.ones(2, 1, 8, 8)
    sector[:, :, :4] = 0
    mixed = torch.tensor([0.25, 0.75])
    entropy = -(mixed * mixed.log()).sum()
    exact, blind = (lambda _: shares.clamp_min(1e-12).log()), (lambda x: x.new_zeros(len(x), 5, 8, 8))
    assert reading_loss(exact, torch.zeros(2, 1, 8, 8), shares, sector) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]
    assert reading_loss(blind, torch.zeros(2, 1, 8, 8), shares, sector) == pytest.approx(float(np.log(5) - entropy))  # type: ignore[arg-type]


def test_blur_is_a_gaussian_of_each_fields_own_width() -> None:
    fields = torch.randn(3, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    blurred = _blurred(fields, torch.tensor([0.0, 0.7, 1.3]).reshape(3, 1, 1, 1))
    assert torch.allclose(blurred[0], fields[0], atol=1e-6)
    for i, width in ((1, 0.7), (2, 1.3)):
        known = ndimage.gaussian_filter(fields[i, 0].numpy(), width, mode="nearest", radius=4)
        assert blurred[i, 0].numpy() == pytest.approx(known, abs=1e-5)


def _ring(size: int, count: int) -> Fields:
    """A bright wall about a dark cavity in even tissue, at places of their own."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((size, size))
    tissues = np.full((count, size, size), 4, np.uint8)
    for one in tissues:
        distance = np.hypot(*(np.stack([rows, columns]) - rng.uniform(12, size - 12, (2, 1, 1))))
        one[distance < 10], one[distance < 7] = 2, 1
    grey = np.asarray([0, -0.8, 0.6, 0, 0], np.float32)[tissues] + rng.normal(0, 0.05, tissues.shape)
    return Fields(grey.astype(np.float32), tissues, np.zeros(count, np.uint8))


@pytest.mark.slow
def test_reader_learns_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_reader, "_IMAGES", 2560)
    task = DiffusionTask(_ring(32, 64), _ring(32, 8), "cpu", seed=0)
    reader = train_reader(task, tmp_path, {"data": "rings"})
    clean, _, sector = task.load(task.val, np.arange(8))
    tissues = task.tissues(task.val, np.arange(8))
    read = reader(clean).argmax(1)
    assert (read == tissues.argmax(1)).float().mean() > 0.97
    moved = torch.roll(tissues, 6, dims=3)
    assert reading_loss(reader, clean, moved, sector).mean() > 10 * reading_loss(reader, clean, tissues, sector).mean()
    again = train_reader(task, tmp_path, {"data": "rings"})  # kept
    assert all(torch.equal(a, b) for a, b in zip(reader.parameters(), again.parameters(), strict=True))
    (tmp_path / READER).write_bytes(b"foreign")  # or made again
    again = train_reader(task, tmp_path, {"data": "rings"})
    assert all(torch.equal(a, b) for a, b in zip(reader.parameters(), again.parameters(), strict=True))
    assert not any(p.requires_grad for p in reader.parameters())


def test_the_reader_of_a_shorter_trial_is_not_enough(tmp_path: Path) -> None:
    task = DiffusionTask(_ring(32, 8), _ring(32, 4), "cpu", seed=0)

    def weights(images: int) -> list[Tensor]:
        return list(train_reader(task, tmp_path, {"data": "rings"}, images).parameters())

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    trial, longer = weights(32), weights(320)
    assert not same(trial, longer)
    assert same(longer, weights(32))  # one that has seen more will do


class _Killed(Exception):
    pass


def _train(out: Path, resume: bool = False) -> dict[str, Tensor]:
    train(
        "edm-l64",
        501,
        vae=BUNDLED_VAE,
        images=16,
        batch=4,
        copies=1,
        map_loss=0.5,
        out=out,
        precision="fp32",
        device="cpu",
        resume=resume,
    )
    return load_tensors(out / "model.safetensors")[0]


@pytest.mark.slow
def test_killed_training_goes_on_with_the_same_reader(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_reader, "_IMAGES", 64)
    whole = _train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        loss = DiffusionTask.loss

        def dies(task: DiffusionTask, module: nn.Module, positions: Sequence[int]) -> object:
            if positions[0] >= 8:
                raise _Killed
            return loss(task, module, positions)

        patch.setattr(DiffusionTask, "loss", dies)
        with pytest.raises(_Killed):
            _train(tmp_path / "cut")
    (tmp_path / "cut" / READER).unlink()
    resumed = _train(tmp_path / "cut", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    history = (tmp_path / "whole" / "history.csv").read_text()
    assert "val,reading" in history
    assert build_reader().state_dict().keys() == load_tensors(tmp_path / "whole" / READER)[0].keys()
