"""The last phase of a VAE's training: the decoder alone learns to read E[z]; killed, it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli.train_commands import average_weights, train_vae
from echo_synth import specs
from echo_synth.runs.folder import AS_TRAINED, FINISH, STATE, WEIGHTS, open_run
from echo_synth.runs.progress import progress_of
from echo_synth.runs.tensors import load_tensors
from echo_synth.training.tasks.vae import VaeTask
from echo_synth.vae.loss import finishing_loss
from echo_synth.vae.network import GammaVAE

pytestmark = pytest.mark.slow


class _Killed(Exception):
    pass


def _train(out: Path, finish: int | None = 8, images: int = 16, resume: bool = False, snapshots: int = 0) -> Path:
    train_vae(
        "gamma-vae-64",
        501,
        size="light",
        out=out,
        images=images,
        batch=4,
        decoder_finish=finish,
        snapshots=snapshots,
        precision="fp32",
        device="cpu",
        resume=resume,
    )
    return out


def _weights(file: Path) -> dict[str, Tensor]:
    return load_tensors(file)[0]


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSYNTH_HOME", str(converted))
        return _train(tmp_path_factory.mktemp("finish") / "whole", snapshots=2)


def test_only_the_decoder_changes(whole: Path) -> None:
    before, after = _weights(whole / AS_TRAINED), _weights(whole / WEIGHTS)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(k.startswith(("decoder.", "from_latent.")) for k in changed)
    assert open_run(whole, "vae").description.decoder_finish == 8
    assert str(progress_of(whole)) == "16 images"
    assert not (whole / FINISH / STATE).exists()


def test_killed_it_goes_on_to_the_same_weights(
    whole: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = VaeTask.finishing_loss

    def dies(task: VaeTask, module: nn.Module, positions: Sequence[int]) -> object:
        if positions[0] >= 4:
            raise _Killed
        return loss(task, module, positions)

    with monkeypatch.context() as patch:
        patch.setattr(VaeTask, "finishing_loss", dies)
        with pytest.raises(_Killed):
            _train(tmp_path / "broken")
    assert str(progress_of(tmp_path / "broken")) == "unfinished: 16 images seen, its last phase is not over"
    _train(tmp_path / "broken", resume=True)
    assert _same(_weights(tmp_path / "broken" / WEIGHTS), _weights(whole / WEIGHTS))


def test_a_run_without_it_is_finished_later(whole: Path, home: Path, tmp_path: Path) -> None:
    run = _train(tmp_path / "late", finish=0)
    assert not (run / AS_TRAINED).exists()
    assert _same(_weights(run / WEIGHTS), _weights(whole / AS_TRAINED))
    _train(run, resume=True)
    assert _same(_weights(run / WEIGHTS), _weights(whole / WEIGHTS))
    once = (run / WEIGHTS).read_bytes()
    _train(run, resume=True)  # nothing is left to do
    assert (run / WEIGHTS).read_bytes() == once


def test_a_finished_run_can_be_had_as_trained_again(whole: Path, home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    _train(copy, finish=0, resume=True, snapshots=2)
    assert _same(_weights(copy / WEIGHTS), _weights(whole / AS_TRAINED))
    assert open_run(copy, "vae").description.decoder_finish == 0
    assert not (copy / AS_TRAINED).exists()


def test_a_lengthened_run_is_finished_anew(whole: Path, home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "longer"))
    first = _weights(run / AS_TRAINED)
    _train(run, images=64, snapshots=2, resume=True)
    assert str(progress_of(run)) == "64 images"
    assert not _same(_weights(run / AS_TRAINED), first)
    assert not _same(_weights(run / AS_TRAINED), _weights(run / WEIGHTS))


def test_an_average_of_snapshots_is_not_called_finished(whole: Path, home: Path, tmp_path: Path) -> None:
    average_weights(whole, 0.1, tmp_path / "average")
    assert open_run(tmp_path / "average", "vae").description.decoder_finish == 0


def test_the_loss_is_that_of_the_mean() -> None:
    torch.manual_seed(0)
    vae = GammaVAE((4, 8, 8), 1, 4, False, False)
    images = torch.rand(2, 1, 32, 32)
    sector = torch.ones_like(images)
    weights = specs.VaeLossWeights()
    terms = finishing_loss(vae, images, sector, weights)
    error = ((vae.decode(vae.latent(images, sector), sector) - images) ** 2).mean()
    assert float(terms["reconstruction"]) == pytest.approx(float(error), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(weights.reconstruction * float(error), rel=1e-5)
    terms["loss"].backward()
    assert all(p.grad is None for p in vae.encoder.parameters())
    assert all(p.grad is not None for p in vae.decoder.parameters())


@pytest.mark.parametrize(("images", "asked", "expected"), [(16, None, 1), (12000, None, 1200), (16, 8, 8), (64, 0, 0)])
def test_a_short_training_has_a_short_last_phase(images: int, asked: int | None, expected: int) -> None:
    spec = specs.vae_model("gamma-vae-64")
    assert specs.training_of(spec, "tiny", images=images, decoder_finish=asked).decoder_finish == expected
