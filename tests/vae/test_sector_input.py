"""A decoder that is told which pixels belong to the sector."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from echo_synth.runs.description import build_model, describe_vae
from echo_synth.vae.network import GammaVAE


def _vae(size: str) -> GammaVAE:
    torch.manual_seed(0)
    return cast(GammaVAE, build_model(describe_vae("gamma-vae-64", size))).eval()


def _sectors() -> tuple[Tensor, Tensor]:
    """Two sectors of 64 x 64 px with the same mask on the latent grid: they differ within cells of 4 x 4 px only."""
    straight = torch.zeros(1, 1, 64, 64)
    straight[..., 16:48] = 1
    wider = straight.clone()
    wider[..., 15:49] = 1
    return straight, wider


def test_the_latent_grid_alone_cannot_tell_where_the_edge_runs() -> None:
    straight, wider = _sectors()
    vae = _vae("tiny")
    assert torch.equal(vae.latent_mask(straight), vae.latent_mask(wider))
    latent = torch.rand(1, 1, 16, 16) * vae.latent_mask(straight)
    with torch.no_grad():
        assert torch.equal(vae.decode(latent, straight), vae.decode(latent, wider) * straight)


def test_light_sees_it_and_draws_nothing_beyond() -> None:
    straight, wider = _sectors()
    vae = _vae("light")
    latent = torch.rand(1, 1, 16, 16) * vae.latent_mask(straight)
    with torch.no_grad():
        one, other = vae.decode(latent, straight), vae.decode(latent, wider)
    assert not torch.allclose(one, other * straight)
    assert float(one[straight == 0].abs().max()) == 0


def test_the_first_layer_alone_takes_the_sector_in() -> None:
    described = describe_vae("gamma-vae-64", "light")
    plain = described.model_copy(update={"network": described.network.model_copy(update={"sector_input": False})})
    grown = {k: v.shape for k, v in build_model(described).state_dict().items()}
    former = {k: v.shape for k, v in build_model(plain).state_dict().items()}
    assert {k for k in grown if grown[k] != former[k]} == {"decoder.0.weight"}
    assert grown["decoder.0.weight"][1] == 1 + 16
