"""Latents of several channels, the standard VAE that the paper compares with: what changes, and the whole way to images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cli.generate_commands import generate
from cli.train_commands import train, train_vae
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import read_pixels
from echo_synth.masked import sector_mean
from echo_synth.runs.description import UNetNetwork, build_model, describe_diffusion, describe_vae
from echo_synth.runs.find import find_vae
from echo_synth.runs.folder import open_run
from echo_synth.specs import VaeLossWeights
from echo_synth.training import map_reader
from echo_synth.training.map_reader import _blurred
from echo_synth.vae.codec import LatentCodec
from echo_synth.vae.loss import vae_loss


def _images() -> tuple[Tensor, Tensor]:
    sector = torch.zeros(2, 1, 64, 64)
    sector[..., 8:56, 8:56] = 1
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * sector, sector


def test_loss_sums_the_divergence_over_channels_and_compares_no_latent_with_the_image() -> None:
    vae, (images, sector) = build_model(describe_vae("gamma-vae-64", "tiny", latent_channels=3)), _images()
    draws = [torch.Generator().manual_seed(i) for i in range(2)]
    terms = vae_loss(vae, images, sector, VaeLossWeights(), torch.tensor([True, True]), draws)
    kl, small = vae.posterior(images).kl("prior-posterior"), vae.latent_mask(sector)
    each = [sector_mean(kl[:, i : i + 1], small).mean() for i in range(3)]
    assert set(terms) == {"reconstruction", "kl", "loss"}
    assert float(terms["kl"]) == pytest.approx(float(sum(each)), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(
        10 * float(terms["reconstruction"]) + 1e-3 * float(terms["kl"]), rel=1e-5
    )


def test_a_mean_over_the_sector_counts_channels_and_pixels_alike() -> None:
    sector = torch.zeros(1, 1, 4, 4)
    sector[..., :2] = 1
    values = torch.stack([torch.full((4, 4), 2.0), torch.full((4, 4), 4.0)])[None]
    values[..., 2:] = 99
    assert float(sector_mean(values, sector)) == 3


def test_fields_keep_all_channels_there_and_back() -> None:
    vae, (images, sector) = (
        build_model(describe_vae("gamma-vae-64", "tiny", "gaussian", None, 4)),
        _images(),
    )
    codec = LatentCodec(vae.eval(), 16)
    with torch.no_grad():
        fields = codec.encode(images, sector)
        again = codec.decode(fields, sector)
        assert torch.allclose(again, vae.decode(vae.latent(images, sector), sector).clamp(0, 1), atol=1e-5)
    assert fields.shape == (2, 4, 16, 16)
    assert bool((fields[(vae.latent_mask(sector) == 0).expand_as(fields)] == -1).all())


def test_each_channel_is_blurred_alike() -> None:
    fields = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    width = torch.tensor([0.4, 0.8, 1.2]).reshape(3, 1, 1, 1)
    both = _blurred(fields, width)
    assert torch.equal(both[:, 1:], _blurred(fields[:, 1:], width))


def test_networks_take_and_give_as_many_channels() -> None:
    for name, factor in (("edm-l64", 1), ("sdm", 2)):
        description = describe_diffusion(name, "tiny", None, None, channels=2)
        assert description.network.out_channels == 2 * factor
    with pytest.raises(ValueError, match="3 image channels in and 2 out"):
        UNetNetwork.model_validate(description.network.model_dump() | {"image_channels": 3, "out_channels": 2})


@pytest.mark.slow
def test_from_training_to_images(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_reader, "_IMAGES", 64)
    options = {"dataset_id": 501, "images": 8, "batch": 4, "device": "cpu", "precision": "fp32"}
    train_vae(
        "gamma-vae-64", perceptual="none", decoder_finish=4, latent_channels=3, out=own_home / "runs/several", **options
    )  # type: ignore[arg-type]
    vae = open_run(own_home / "runs/several", "vae")
    assert vae.description.network.latent_channels == 3
    train("edm-l64", vae=vae.folder, copies=1, map_loss=0.1, **options)  # type: ignore[arg-type]
    kept = [np.load(file, mmap_mode="r") for file in (own_home / "prepared").glob("*_fields64_*/clean.npy")]
    assert sorted(array.shape for array in kept) == [(4, 3, 64, 64), (12, 3, 64, 64)]
    generate("edm-l64", nfe=2, count=2, dataset_id=601, device="cpu")
    dataset = nnunet_raw.find(601)
    for case in dataset.cases()["case"]:
        assert read_pixels(dataset.image_path(case, "train")).std() > 0
    assert json.loads((vae.folder / "model.json").read_text())["model"] == "gamma-vae-64-3ch"


@pytest.mark.slow
def test_it_is_not_taken_for_the_one_of_the_paper(own_home: Path) -> None:
    options = {"dataset_id": 501, "images": 4, "batch": 4, "device": "cpu", "precision": "fp32", "perceptual": "none"}
    train_vae("gamma-vae-64", latent_channels=2, decoder_finish=0, **options)  # type: ignore[arg-type]
    assert find_vae("gamma-vae-64").folder == specs.root() / "bundled" / "gamma-vae-64"
