"""What label maps become: classes and shares, with closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cli.generate_commands import generate
from cli.train_commands import train
from echo_synth import specs
from echo_synth.diffusion.denoiser import Denoiser, build_network
from echo_synth.diffusion.labels import semantic_classes, semantic_shares, tissue_shares
from echo_synth.runs.folder import open_run
from echo_synth.types import frame_number

FRAMES = torch.arange(4)


def test_a_frame_is_view_and_phase() -> None:
    assert [frame_number(v, p) for p in ("ED", "ES") for v in ("2CH", "4CH")] == [0, 1, 2, 3]


def test_ten_classes_know_the_view_and_twenty_the_phase() -> None:
    tissues = torch.full((4, 2, 2), 3)
    assert semantic_classes(tissues, FRAMES)[:, 0, 0].tolist() == [3, 8, 3, 8]
    assert semantic_classes(tissues, FRAMES, 20)[:, 0, 0].tolist() == [3, 8, 13, 18]


def test_shares_are_areas() -> None:
    """A disc whose area is known keeps it on the coarse grid; nearest neighbours lose up to a cell of every edge."""
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    disc = (rows - 120.3) ** 2 + (columns - 99.7) ** 2 < 17.2**2
    tissues = torch.where(disc, 2, 1)[None]
    shares = tissue_shares(tissues, 64)
    assert torch.allclose(shares.sum(1), torch.ones(1, 64, 64), atol=1 / 255)
    assert float(shares[0, 2].sum() * 16) == pytest.approx(np.pi * 17.2**2, rel=0.01)


@pytest.mark.parametrize("side", [64, 60])  # of which 60 does not divide 256: counted another way
def test_shares_refuse_what_is_no_tissue(side: int) -> None:
    with pytest.raises(ValueError, match="tissue 6"):
        tissue_shares(torch.full((1, 256, 256), 6), side)


@pytest.mark.parametrize("classes", [10, 20])
def test_shares_lie_in_the_block_of_the_frame(classes: int) -> None:
    tissues = torch.randint(0, 5, (4, 64, 64), generator=torch.Generator().manual_seed(0))
    whole = tissues.repeat_interleave(4, 1).repeat_interleave(4, 2)  # cells of one tissue: shares are 0 or 1
    shares = semantic_shares(tissue_shares(whole, 64), FRAMES, classes)
    onehot = torch.nn.functional.one_hot(semantic_classes(tissues, FRAMES, classes), classes).permute(0, 3, 1, 2)
    assert torch.equal(shares, onehot.float())


def _denoiser(**changes: object) -> Denoiser:
    shape = {"resolution": 16, "classes": 10, "channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention": ()}
    torch.manual_seed(0)
    denoiser = Denoiser(build_network("adm", **(shape | changes)), "edm")  # type: ignore[arg-type]
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


@torch.no_grad()
def test_soft_maps_of_whole_cells_act_as_hard_ones() -> None:
    hard, soft = _denoiser(), _denoiser(soft_maps=True)
    soft.load_state_dict(hard.state_dict())
    classes = torch.zeros(2, 16, 16, dtype=torch.long)
    classes[:, 4:12, 8:] = 6  # edges on the coarsest grid's lines
    shares = torch.nn.functional.one_hot(classes, 10).permute(0, 3, 1, 2).float()
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 2.0])
    assert torch.equal(hard(x, sigma, hard.modulate(classes)), soft(x, sigma, soft.modulate(shares)))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["adm", "ddpmpp", "ncsnpp"])
def test_a_map_among_the_inputs_reaches_the_encoder(architecture: str) -> None:
    torch.manual_seed(0)
    shape = {"resolution": 16, "classes": 20, "channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention": ()}
    network = build_network(architecture, map_input=True, **shape)  # type: ignore[arg-type]
    denoiser = Denoiser(network, "edm").eval()
    assert network.enc["16x16_conv"].weight.shape[1] == 21  # type: ignore[union-attr, index]
    maps = torch.randint(0, 20, (3, 16, 16))
    modulations = denoiser.modulate(maps)
    x = torch.cat([torch.zeros(3, 1, 16, 16), modulations.onehot], 1)
    outputs, _ = network._encode(x, torch.zeros(3, 32))
    assert not torch.equal(outputs[0], outputs[1])
    assert denoiser(torch.zeros(3, 1, 16, 16), torch.ones(3), modulations).shape == (3, 1, 16, 16)
    shared = denoiser.modulate(maps[:1]).take(torch.zeros(3, dtype=torch.long))
    assert denoiser(torch.zeros(3, 1, 16, 16), torch.ones(3), shared).shape == (3, 1, 16, 16)


@pytest.mark.slow
def test_a_model_of_all_conditions_trains_and_draws(own_home: Path, tmp_path: Path) -> None:
    vae, run = specs.root() / "bundled/gamma-vae-64", tmp_path / "edm"
    train(
        "edm-l64",
        501,
        vae=vae,
        out=run,
        images=4,
        batch=2,
        copies=2,
        soft_maps=True,
        phase=True,
        map_input=True,
        precision="fp32",
        device="cpu",
    )
    network = open_run(run, "diffusion").description.network
    assert (network.classes, network.soft_maps, network.map_input) == (20, True, True)
    generate(
        "edm-l64",
        checkpoint=run,
        vae=vae,
        nfe=2,
        count=4,
        dataset_id=777,
        classification=tmp_path / "pictures",
        maps=own_home / "maps/Dataset501_PHANTOM",
        device="cpu",
    )
    assert len(list((own_home / "nnunet/raw").glob("Dataset777_*/imagesTr/*.nii.gz"))) == 4
